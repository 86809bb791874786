"""The networks of a manifest, rendered by the shipped layers on each release, as their programs read them."""

import shutil
import subprocess

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.keys import derive
from imagebuilder.model import Kind, NodePlan, Release
from imagebuilder.plan import layer_order
from tests.integration.overlays import rendered
from tests.integration.overlays.network_files import (
    KEYFILES,
    PROFILES,
    dhcpcd,
    keyfile,
    parsed,
    planned,
    plans_of,
    unescaped,
    wpa_networks,
)
from tests.support import networks
from tests.support.networks import AT_HOME, cluster

MANIFESTS = {
    "at home": AT_HOME,
    "Ethernet uplink": networks.ETHERNET_UPLINK,
    "static uplink": networks.STATIC_UPLINK,
    "static address on Wi-Fi": networks.STATIC_WIFI,
    "fallback": networks.FALLBACK,
    "DHCP": networks.BY_DHCP,
    "on the LAN by Wi-Fi": networks.BY_WIFI,
    "behind the gateway by Wi-Fi": networks.BY_WIFI_BEHIND_A_GATEWAY,
    "by Wi-Fi and DHCP": networks.BY_WIFI_AND_DHCP,
    "VLAN": networks.VLAN,
    "one port": networks.ONE_PORT,
    "two VLANs": networks.TWO_VLANS,
    "IPv6": networks.IPV6,
    "IPv6 at home": networks.IPV6_AT_HOME,
    **networks.SECURITIES,
}


@pytest.mark.skipif(shutil.which("nmcli") is None, reason="needs nmcli (network-manager)")
@pytest.mark.parametrize("text", MANIFESTS.values(), ids=MANIFESTS)
def test_networkmanager_reads_every_keyfile(text: str) -> None:
    """libnm reads, checks and writes it: with the same settings, so none is unknown to it."""
    found = 0
    for name, plan in plans_of(text, Release.TRIXIE, rendered.PASSPHRASE).items():
        for path, entry in rendered.files(plan).items():
            if not path.startswith(PROFILES):
                continue
            found += 1
            command = ["nmcli", "--offline", "connection", "modify", "connection.autoconnect", "yes"]
            done = subprocess.run(command, input=entry.content, capture_output=True, check=False)
            assert done.returncode == 0, (name, path, done.stderr)
            ours, theirs = parsed(entry.content), parsed(done.stdout)
            for section in ours.sections():
                for key, value in ours.items(section):
                    if key != "ssid":
                        there = unescaped(theirs[section].get(key, ""))
                        assert there == unescaped(value), (path, section, key)
    assert found >= 4


@pytest.mark.parametrize("text", MANIFESTS.values(), ids=MANIFESTS)
def test_two_releases_have_the_same_keyfiles(text: str) -> None:
    found = []
    for release in KEYFILES:
        plans = plans_of(text, release, rendered.PASSPHRASE)
        files = {(name, path): one for name in plans for path, one in rendered.files(plans[name]).items()}
        found.append({place: one.content for place, one in files.items() if place[1].startswith(PROFILES)})
    assert found[0] == found[1]


# --- no gateway ---


@pytest.mark.parametrize("release", KEYFILES)
@pytest.mark.parametrize(("node", "address"), [("master", "192.168.1.21"), ("worker1", "192.168.1.31")])
def test_without_a_gateway_every_node_goes_out_through_the_router(
    node: str, address: str, release: Release
) -> None:
    plan = planned(AT_HOME, node, release)
    lan = keyfile(plan, "piimg-lan")
    assert lan["ipv4"]["address1"] == f"{address}/24,192.168.1.1"
    assert lan["ipv4"]["method"] == "manual"
    assert "never-default" not in lan["ipv4"]
    assert lan["ipv4"]["dns"] == "1.1.1.1;9.9.9.9;"
    assert lan["ipv6"]["method"] == "auto"


@pytest.mark.parametrize("node", ["master", "worker1"])
def test_without_a_gateway_dhcpcd_has_the_router(node: str) -> None:
    plan = planned(AT_HOME, node, Release.BULLSEYE)
    (lines,) = dhcpcd(plan).values()
    assert "static routers=192.168.1.1" in lines
    assert "noipv6rs" not in lines


@pytest.mark.parametrize("release", Release)
@pytest.mark.parametrize("node", ["master", "worker1"])
def test_without_a_gateway_nothing_of_a_gateway_is_on_a_node(node: str, release: Release) -> None:
    plan = planned(AT_HOME, node, release)
    files = rendered.files(plan)
    assert not [path for path in files if path.startswith("/etc/piimg/gateway") or "sysctl.d" in path]
    assert not [path for path in files if "chrony" in path or "timesyncd" in path or path.endswith("30-time")]
    conf = files["/etc/piimg/node.conf"].content.decode()
    assert "GATEWAY=''" in conf and "POLICY='on'" in conf


@pytest.mark.parametrize("release", Release)
def test_without_a_gateway_a_role_of_ones_own_is_no_worker(release: Release) -> None:
    text = AT_HOME.replace('role = "worker"', 'role = "thermometer"', 1)
    given = cluster(text)
    assert "worker" not in layer_order(given, given.node("worker1"), release)


# --- the gateway's uplink ---


@pytest.mark.parametrize("release", KEYFILES)
def test_an_ethernet_uplink_has_a_profile_of_its_own(release: Release) -> None:
    plan = planned(networks.ETHERNET_UPLINK, "master", release)
    uplink = keyfile(plan, "piimg-uplink")
    assert (uplink["connection"]["interface-name"], uplink["connection"]["type"]) == ("eth1", "ethernet")
    assert uplink["ipv4"]["method"] == "auto"
    assert not profiles(planned(networks.ETHERNET_UPLINK, "worker1", release)) - {"piimg-lan"}
    assert "piimg-uplink" not in profiles(planned(networks.PICLUSTER, "master", release))


def profiles(plan: NodePlan) -> set[str]:
    """The names of the plan's keyfiles."""
    paths = rendered.files(plan)
    return {path.rpartition("/")[2].removesuffix(".nmconnection") for path in paths if PROFILES in path}


@pytest.mark.parametrize("release", KEYFILES)
@pytest.mark.parametrize(
    ("text", "name"), [(networks.STATIC_UPLINK, "piimg-uplink"), (networks.STATIC_WIFI, "piimg-wifi")]
)
def test_a_static_uplink_has_address_and_router(text: str, name: str, release: Release) -> None:
    plan = planned(text, "master", release)
    ipv4 = keyfile(plan, name)["ipv4"]
    assert (ipv4["method"], ipv4["address1"]) == ("manual", "192.168.1.50/24,192.168.1.1")
    assert keyfile(plan, "piimg-lan")["ipv4"]["never-default"] == "true"
    if name == "piimg-uplink":
        assert keyfile(plan, "piimg-wifi")["ipv4"]["method"] == "auto"


@pytest.mark.parametrize(
    ("text", "uplink"), [(networks.STATIC_UPLINK, "eth1"), (networks.STATIC_WIFI, "wlan0")]
)
def test_dhcpcd_has_the_static_uplink(text: str, uplink: str) -> None:
    lines = dhcpcd(planned(text, "master", Release.BULLSEYE))
    assert lines[f"interface {uplink}"] == [
        "static ip_address=192.168.1.50/24",
        "static routers=192.168.1.1",
    ]
    assert "static routers" not in " ".join(lines["interface eth0"])
    assert f"interface {uplink}" not in dhcpcd(planned(text, "worker1", Release.BULLSEYE))
    plain = dhcpcd(planned(networks.ETHERNET_UPLINK, "master", Release.BULLSEYE))
    assert plain.keys() == {"interface eth0"}


@pytest.mark.parametrize("release", KEYFILES)
def test_a_second_network_is_a_fallback(release: Release) -> None:
    plan = planned(networks.FALLBACK, "master", release)
    first, second = keyfile(plan, "piimg-wifi"), keyfile(plan, "piimg-wifi-fallback")
    priorities = [int(one["connection"].get("autoconnect-priority", "0")) for one in (first, second)]
    assert priorities[0] > priorities[1]
    assert second["wifi"]["ssid"] == "".join(f"{byte};" for byte in b"Phone")
    assert second["wifi-security"]["psk"] == derive.wifi_psk("Phone", rendered.PASSPHRASE)
    assert first["connection"]["uuid"] != second["connection"]["uuid"]


def test_wpa_supplicant_has_a_fallback() -> None:
    plan = planned(networks.FALLBACK, "master", Release.BULLSEYE)
    first, second = wpa_networks(plan)
    assert int(first["priority"]) > int(second.get("priority", "0"))
    assert second["ssid"] == b"Phone".hex()
    assert second["psk"] == derive.wifi_psk("Phone", rendered.PASSPHRASE)


def test_dhcpcd_cannot_do_a_static_address_on_one_of_two_networks() -> None:
    both = networks.changed(networks.FALLBACK, ('uplink = "wlan0"', networks.STATIC_WIFI_UPLINK))
    for release in KEYFILES:
        plan = planned(both, "master", release)
        assert keyfile(plan, "piimg-wifi")["ipv4"]["method"] == "manual"
        assert keyfile(plan, "piimg-wifi-fallback")["ipv4"]["method"] == "auto"
    with pytest.raises(UsageError, match=r"master: on bullseye \(dhcpcd\) a static uplink_address"):
        planned(both, "master", Release.BULLSEYE)
    assert rendered.node_plan("worker1", Release.BULLSEYE, cluster(both))


@pytest.mark.parametrize(
    ("text", "cleared"), [(networks.ETHERNET_UPLINK, b"eth0 wlan0 eth1"), (networks.PICLUSTER, b"eth0 wlan0")]
)
def test_netplan_sets_up_no_uplink(text: str, cleared: bytes) -> None:
    (entry,) = [one for one in planned(text, "master", Release.TRIXIE).entries if one.kind is Kind.NETPLAN]
    assert entry.content == cleared


# --- addresses from DHCP ---


@pytest.mark.parametrize("release", KEYFILES)
def test_an_address_from_dhcp(release: Release) -> None:
    """The manifest's name servers are used all the same."""
    ipv4 = keyfile(planned(networks.BY_DHCP, "worker2", release), "piimg-lan")["ipv4"]
    assert (ipv4["method"], ipv4["ignore-auto-dns"], ipv4["dns"]) == ("auto", "true", "1.1.1.1;9.9.9.9;")
    assert "address1" not in ipv4
    assert keyfile(planned(networks.BY_DHCP, "worker1", release), "piimg-lan")["ipv4"]["method"] == "manual"


def test_dhcpcd_asks_for_an_address() -> None:
    assert dhcpcd(planned(networks.BY_DHCP, "worker2", Release.BULLSEYE)) == {
        "interface eth0": [
            "static domain_name_servers=1.1.1.1 9.9.9.9",
            "static domain_search=picluster.internal",
        ]
    }


@pytest.mark.parametrize("release", Release)
def test_a_node_without_a_known_address_is_known_by_its_name(release: Release) -> None:
    own = rendered.files(planned(networks.BY_DHCP, "worker2", release))
    other = rendered.files(planned(networks.BY_DHCP, "worker1", release))
    assert b"\n127.0.1.1 worker2.picluster.internal worker2\n" in own["/etc/hosts"].content
    assert b"\n# worker3 has its address from DHCP: worker3.local\n" in own["/etc/hosts"].content
    assert b"127.0.1.1" not in other["/etc/hosts"].content
    assert (
        b"\nworker2,worker2.picluster.internal,worker2.local ssh-"
        in other["/etc/ssh/ssh_known_hosts"].content
    )
    assert b"\nADDRESS=''\n" in own["/etc/piimg/node.conf"].content
    assert b"None" not in b"".join(one.content for one in own.values() if not one.path.startswith("/usr"))


# --- on the LAN by Wi-Fi ---


@pytest.mark.parametrize("release", KEYFILES)
@pytest.mark.parametrize("name", ["piimg-wifi", "piimg-wifi-fallback"])
def test_wifi_may_be_the_way_to_the_lan(name: str, release: Release) -> None:
    """Both networks lead to the LAN, so the address is the same on both."""
    for text, address in (
        (networks.BY_WIFI, "192.168.1.34/24,192.168.1.1"),
        (networks.BY_WIFI_BEHIND_A_GATEWAY, "10.0.0.14/24,10.0.0.1"),
    ):
        plan = planned(text, "worker4", release)
        assert profiles(plan) == {"piimg-wifi", "piimg-wifi-fallback"}
        ipv4 = keyfile(plan, name)["ipv4"]
        assert (ipv4["method"], ipv4["address1"]) == ("manual", address)
        assert ipv4["dns"] == "1.1.1.1;9.9.9.9;"
        assert keyfile(plan, name)["ipv6"]["method"] == ("auto" if "192" in address else "link-local")
    by_dhcp = keyfile(planned(networks.BY_WIFI_AND_DHCP, "worker4", release), name)["ipv4"]
    assert by_dhcp["method"] == "auto" and "address1" not in by_dhcp


def test_dhcpcd_sets_up_wifi_as_the_lan() -> None:
    plan = planned(networks.BY_WIFI_BEHIND_A_GATEWAY, "worker4", Release.BULLSEYE)
    (lines,) = (dhcpcd(plan)[section] for section in ("interface wlan0",))
    assert {"static ip_address=10.0.0.14/24", "static routers=10.0.0.1", "noipv6rs"} <= set(lines)
    assert dhcpcd(plan).keys() == {"interface wlan0"}
    assert len(wpa_networks(plan)) == 2


# --- VLANs ---


@pytest.mark.parametrize("release", KEYFILES)
def test_a_vlan_has_a_profile_and_its_port_no_address(release: Release) -> None:
    plan = planned(networks.VLAN, "worker2", release)
    lan, port = keyfile(plan, "piimg-lan"), keyfile(plan, "piimg-port")
    assert (lan["connection"]["type"], lan["connection"]["interface-name"]) == ("vlan", "eth0.10")
    assert (lan["vlan"]["parent"], lan["vlan"]["id"]) == ("eth0", "10")
    assert lan["ipv4"]["address1"] == "10.0.0.12/24,10.0.0.1"
    assert port["connection"]["interface-name"] == "eth0"
    assert (port["ipv4"]["method"], port["ipv6"]["method"]) == ("disabled", "disabled")
    assert profiles(planned(networks.VLAN, "worker1", release)) == {"piimg-lan"}


@pytest.mark.parametrize("release", KEYFILES)
def test_the_uplink_may_be_a_vlan(release: Release) -> None:
    plan = planned(networks.ONE_PORT, "master", release)
    assert profiles(plan) == {"piimg-lan", "piimg-uplink", "piimg-wifi"}
    uplink = keyfile(plan, "piimg-uplink")
    assert (uplink["vlan"]["parent"], uplink["vlan"]["id"], uplink["ipv4"]["method"]) == (
        "eth0",
        "20",
        "auto",
    )
    assert keyfile(plan, "piimg-lan")["connection"]["type"] == "ethernet"
    both = planned(networks.TWO_VLANS, "master", release)
    assert keyfile(both, "piimg-lan")["vlan"]["id"] == "10"
    assert keyfile(both, "piimg-port")["connection"]["interface-name"] == "eth0"
    assert "UPLINK='eth0.20'" in rendered.files(both)["/etc/piimg/gateway.conf"].content.decode()


def test_dhcpcd_gets_vlans_that_exist() -> None:
    plan = planned(networks.VLAN, "worker2", Release.BULLSEYE)
    lines = dhcpcd(plan)
    assert "static ip_address=10.0.0.12/24" in lines["interface eth0.10"]
    assert lines["interface eth0"] == ["noipv4", "noipv6"]
    unit = rendered.files(plan)["/etc/systemd/system/piimg-vlan.service"].content.decode()
    assert "ip link add link eth0 name eth0.10 type vlan id 10\n" in unit
    one = planned(networks.ONE_PORT, "master", Release.BULLSEYE)
    assert "interface eth0.20" not in dhcpcd(one) and "noipv4" not in str(dhcpcd(one))
    unit = rendered.files(one)["/etc/systemd/system/piimg-vlan.service"].content.decode()
    assert "name eth0.20 type vlan id 20\n" in unit


@pytest.mark.parametrize("release", Release)
def test_no_router_advertisement_on_a_vlan(release: Release) -> None:
    conf = rendered.files(planned(networks.VLAN, "worker2", release))["/etc/sysctl.d/60-piimg-lan.conf"]
    assert b"\nnet.ipv6.conf.eth0/10.accept_ra = 0\n" in conf.content


# --- IPv6 ---


@pytest.mark.parametrize("release", KEYFILES)
def test_nodes_have_an_ipv6_address_and_go_out_through_the_gateway(release: Release) -> None:
    worker = keyfile(planned(networks.IPV6, "worker1", release), "piimg-lan")["ipv6"]
    assert worker["method"] == "manual"
    assert worker["address1"] == "fd12:3456:789a:1::a00:b/64,fd12:3456:789a:1::a00:1"
    master = keyfile(planned(networks.IPV6, "master", release), "piimg-lan")["ipv6"]
    assert (master["address1"], master["never-default"]) == ("fd12:3456:789a:1::a00:1/64", "true")
    wifi = keyfile(planned(networks.IPV6, "master", release), "piimg-wifi")["ipv6"]
    assert wifi["method"] == "auto" and "address1" not in wifi
    home = keyfile(planned(networks.IPV6_AT_HOME, "worker1", release), "piimg-lan")["ipv6"]
    assert (home["method"], home["address1"]) == ("auto", "fd12:3456:789a:1::c0a8:11f/64")
    lent = keyfile(planned(networks.IPV6_AT_HOME, "worker2", release), "piimg-lan")["ipv6"]
    assert lent["method"] == "auto" and "address1" not in lent


def test_dhcpcd_has_the_ipv6_address() -> None:
    (lines,) = dhcpcd(planned(networks.IPV6, "worker1", Release.BULLSEYE)).values()
    assert {"static ip6_address=fd12:3456:789a:1::a00:b/64", "noipv6rs"} <= set(lines)
    hook = rendered.files(planned(networks.IPV6, "worker1", Release.BULLSEYE))["/etc/dhcpcd.exit-hook"]
    assert b"default via fd12:3456:789a:1::a00:1 dev eth0" in hook.content
    assert "/etc/dhcpcd.exit-hook" not in rendered.files(planned(networks.IPV6, "master", Release.BULLSEYE))
    assert "ip6_address" not in str(dhcpcd(planned(networks.IPV6_AT_HOME, "worker2", Release.BULLSEYE)))


@pytest.mark.parametrize("release", Release)
def test_names_have_the_ipv6_address_too(release: Release) -> None:
    files = rendered.files(planned(networks.IPV6, "worker2", release))
    address = b"fd12:3456:789a:1::a00:b"
    assert b"\n" + address + b" worker1.picluster.internal worker1\n" in files["/etc/hosts"].content
    assert b"worker1.picluster.internal,10.0.0.11," + address in files["/etc/ssh/ssh_known_hosts"].content
    conf = rendered.files(planned(networks.IPV6, "master", release))["/etc/piimg/gateway.conf"].content
    assert b"\nLAN6='fd12:3456:789a:1::/64'\n" in conf
    plain = rendered.files(planned(networks.PICLUSTER, "master", release))["/etc/piimg/gateway.conf"].content
    assert b"LAN6" not in plain
