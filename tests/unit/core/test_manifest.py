"""The cluster manifest: what is accepted, what is refused, and that each error is reported with its line."""

# ruff: noqa: E501  # the table of cases is read a line each

import hashlib
import re
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from imagebuilder import manifest, resources
from imagebuilder.boards import BOARDS
from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Gateway, Secret, Wifi, WifiNetwork
from imagebuilder.networks import WifiSecurity
from imagebuilder.settings import Policy, Swap, SwapKind
from imagebuilder.toml import SIZE_LIMIT

EXAMPLE = resources.shipped("manifests") / "picluster.toml"
TEXT = EXAMPLE.read_text()
LAYERS = {"base", "mine", "yours", "master", "worker", "os-trixie"}


def parse(text: str | bytes, architecture: str | None = None) -> Cluster:
    raw = text.encode() if isinstance(text, str) else text
    return manifest.parse(raw, Path("cluster.toml"), layers=LAYERS, architecture=lambda base: architecture)


def changed(before: str, after: str, text: str = TEXT) -> str:
    assert before in text
    return text.replace(before, after, 1)


def errors(text: str | bytes, architecture: str | None = None) -> list[str]:
    """Every error of a manifest, without the file's name: ``LINE: KEY: WHAT``."""
    with pytest.raises(UsageError) as refused:
        parse(text, architecture)
    error = refused.value
    several = re.fullmatch(r"cluster\.toml has (\d+) errors", error.message)
    reported = error.hint.split("\n") if several else [error.message]
    assert not several or len(reported) == int(several[1])
    assert all(line.startswith("cluster.toml:") and line.isprintable() for line in reported)
    return [line.removeprefix("cluster.toml:") for line in reported]


def line(text: str, part: str) -> int:
    """The line where ``part`` first stands."""
    return text[: text.index(part)].count("\n") + 1


def test_the_shipped_cluster() -> None:
    cluster = manifest.load(EXAMPLE, layers=LAYERS)
    assert [node.name for node in cluster.nodes] == ["master", *(f"worker{n}" for n in range(1, 6))]
    assert [node.board.name for node in cluster.nodes] == ["pi-4b", *["pi-3b+"] * 5]
    assert [str(node.address) for node in cluster.nodes] == [
        "10.0.0.1",
        *(f"10.0.0.1{n}" for n in range(1, 6)),
    ]
    assert cluster.lan == IPv4Network("10.0.0.0/24")
    assert cluster.dns == (IPv4Address("1.1.1.1"), IPv4Address("9.9.9.9"))
    assert cluster.gateway == Gateway("master", "wlan0", Policy.ON_DEMAND)
    assert cluster.nodes[0].wifi == Wifi("HomeNetwork", "GB", Secret("wifi_psk"))
    assert all(node.wifi is None for node in cluster.nodes[1:])
    assert cluster.user.password is None
    assert cluster.folder == EXAMPLE.parent
    assert cluster.digest == hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()


def test_every_board_is_taken() -> None:
    for board in BOARDS:
        assert parse(changed('"pi-4b"', f'"{board}"')).nodes[0].board is BOARDS[board]


def test_swap_is_the_nodes_own_or_the_clusters() -> None:
    assert {node.swap for node in parse(TEXT).nodes} == {Swap()}
    text = changed('keyboard = "gb"', 'keyboard = "gb"\nswap = "off"')
    text = changed('name = "worker2"', 'name = "worker2"\nswap = "2G"', text)
    text = changed('name = "worker3"', 'name = "worker3"\nswap = "zram"', text)
    text = changed('name = "worker4"', 'name = "worker4"\nswap = "default"', text)
    swaps = [node.swap for node in parse(text).nodes]
    off, zram = Swap(SwapKind.OFF), Swap(SwapKind.ZRAM)
    assert swaps == [off, off, Swap(SwapKind.FILE, 2048), zram, Swap(), off]


@pytest.mark.parametrize("size", ["16M", "512M", "1G", "64G"])
def test_sizes_of_swap(size: str) -> None:
    mib = int(size[:-1]) * (1024 if size.endswith("G") else 1)
    assert parse(changed('keyboard = "gb"', f'swap = "{size}"')).nodes[0].swap == Swap(SwapKind.FILE, mib)


@pytest.mark.parametrize(
    "wrong",
    [
        '"15M"',
        '"65G"',
        '"0M"',
        '"1T"',
        '"512"',
        '"512MiB"',
        '"-1G"',
        '"1.5G"',
        '"file"',
        '"1G\\n"',
        "512",
        "true",
        "[]",
    ],
)
def test_what_is_no_size_of_swap(wrong: str) -> None:
    (said,) = errors(changed('keyboard = "gb"', f"swap = {wrong}"))
    assert 'cluster.swap: takes "default", "off", "zram", or a size' in said


def test_packages_of_the_cluster_a_role_and_a_node() -> None:
    text = changed('keyboard = "gb"', 'keyboard = "gb"\npackages = ["htop"]')
    text = changed("[gateway]", '[role.worker]\npackages = ["munge", "htop"]\n[gateway]', text)
    text = changed('name = "worker2"', 'name = "worker2"\npackages = ["tree"]', text)
    nodes = {node.name: node.packages for node in parse(text).nodes}
    assert nodes["master"] == {"htop": ("cluster",)}
    assert nodes["worker1"] == {"htop": ("cluster", "role.worker"), "munge": ("role.worker",)}
    assert nodes["worker2"] == {**nodes["worker1"], "tree": ("node worker2",)}


def test_layers_of_a_role_come_before_those_of_the_node() -> None:
    text = changed("[gateway]", '[role.worker]\nlayers = ["mine"]\n[gateway]')
    text = changed(WORKER2, f'{WORKER2}\nlayers = ["yours"]', text)
    assert [node.layers for node in parse(text).nodes[:3]] == [(), ("mine",), ("mine", "yours")]


def test_the_gateway_may_have_its_layer_by_its_role() -> None:
    text = changed('role = "master"', 'role = "mine"')
    assert "the layer master sets up the gateway" in errors(text)[0]
    text = changed("[gateway]", '[role.mine]\nlayers = ["master"]\n[gateway]', text)
    assert parse(text).node("master").layers == ("master",)


@pytest.mark.parametrize("right", ["us", "ch(fr)", "us(intl)", "fr(bepo)", "latam", "de(nodeadkeys)"])
def test_a_keyboard_layout_may_have_a_variant(right: str) -> None:
    assert parse(changed('keyboard = "gb"', f'keyboard = "{right}"')).keyboard == right


@pytest.mark.parametrize(
    "right", ["C.UTF-8", "de_DE.UTF-8", "ca_ES.UTF-8@valencia", "de_DE.ISO-8859-15@euro"]
)
def test_a_locale_says_its_character_set(right: str) -> None:
    assert parse(changed("en_GB.UTF-8", right)).locale == right


WORKER2 = 'name = "worker2"'
PSK = 'passphrase = { secret = "wifi_psk" }'
STATIC = 'uplink_address = "{}"\nuplink_router = "{}"'
# fmt: off
CASES = {
    "package of apt's own syntax": ('keyboard = "gb"', 'keyboard = "gb"\npackages = ["htop=3"]', "packages", "cluster.packages[1]: 'htop=3': a version cannot be chosen here; write htop"),
    "package that is no name": (WORKER2, f'{WORKER2}\npackages = ["htop", "Docker.io"]', "packages", "node[3].packages[2]: 'Docker.io' is not the name of a Debian package; is docker.io meant?"),
    "package of a role": ("[gateway]", '[role.worker]\npackages = "htop"\n[gateway]', "packages", 'role.worker.packages: takes a list, such as ["htop"]'),
    "role of no node": ("[gateway]", '[role.wroker]\npackages = ["htop"]\n[gateway]', "[role.wroker]", "role.wroker: no node has the role wroker; is worker meant?"),
    "unknown key": ('board = "pi-4b"', 'board = "pi-4b"\ncolour = "red"', "colour", "node[1].colour: unknown key"),
    "unknown table": ("[gateway]", "[gatway]", "[gatway]", "gatway: unknown key; is gateway meant?"),
    "unknown key that is no plain word": ("[gateway]", '[gateway]\n"a b" = 1', '"a b"', "gateway.'a b': unknown key"),
    "number for text": ('timezone = "Europe/London"', "timezone = 1", "timezone", "cluster.timezone: takes text in quotes"),
    "text for a list": ('dns = ["1.1.1.1", "9.9.9.9"]', 'dns = "9.9.9.9"', "dns =", 'lan.dns: takes a list, such as ["9.9.9.9"]'),
    "long text for a list": ('dns = ["1.1.1.1", "9.9.9.9"]', f'dns = "{"9" * 99}"', "dns =", 'lan.dns: takes a list in brackets, such as ["a", "b"]'),
    "number for a list": ('dns = ["1.1.1.1", "9.9.9.9"]', "dns = 9", "dns =", 'lan.dns: takes a list in brackets, such as ["a", "b"]'),
    "number for a table": (WORKER2, f"{WORKER2}\nvars = 4", "vars = 4", "node[3].vars: takes a table"),
    "number for an address": ('"10.0.0.12"', "167772172", "167772172", "node[3].address: takes an IPv4 address"),
    "name server": ('"9.9.9.9"', '"9.9.9"', "dns =", 'lan.dns[2]: is not an IPv4 address such as "10.0.0.1"'),
    "no name server": ('["1.1.1.1", "9.9.9.9"]', "[]", "dns =", "lan.dns: takes a list with at least one item"),
    "host twice": (WORKER2, 'name = "Worker1"', '"Worker1"', "node[3].name: two nodes are called Worker1"),
    "address twice": ('"10.0.0.12"', '"10.0.0.11"  #', '"10.0.0.11"  #', "10.0.0.11 is already the address of worker1"),
    "outside": ('"10.0.0.12"', '"10.0.1.12"', "10.0.1.12", "node[3].address: 10.0.1.12 is outside the LAN 10.0.0.0/24"),
    "network address": ('"10.0.0.12"', '"10.0.0.0"', '"10.0.0.0"', "10.0.0.0 is the network address of 10.0.0.0/24"),
    "broadcast": ('"10.0.0.12"', '"10.0.0.255"', "10.0.0.255", "10.0.0.255 is the broadcast address of"),
    "no gateway": ('uplink = "wlan0"', "", "[[node]]", 'node: no way out: set uplink = "wlan0" on the node'),
    "static uplink without a router": ('uplink = "wlan0"', 'uplink = "wlan0"\nuplink_address = "192.168.1.5/24"', "uplink_address", "node[1].uplink_address: uplink_router is missing: the address of the router there"),
    "router of the uplink alone": ('uplink = "wlan0"', 'uplink = "wlan0"\nuplink_router = "192.168.1.1"', "uplink_router", "node[1].uplink_router: uplink_address is missing"),
    "static uplink on the LAN": ('uplink = "wlan0"', f'uplink = "wlan0"\n{STATIC.format("10.0.0.5/16", "10.0.0.6")}', "uplink_address", "10.0.0.0/16 overlaps the LAN 10.0.0.0/24"),
    "static uplink without a prefix": ('uplink = "wlan0"', f'uplink = "wlan0"\n{STATIC.format("192.168.1.5", "192.168.1.1")}', "uplink_address", "takes an IPv4 address with the prefix of its network"),
    "static uplink that is a network": ('uplink = "wlan0"', f'uplink = "wlan0"\n{STATIC.format("192.168.1.0/24", "192.168.1.1")}', "uplink_address", "192.168.1.0 is the network address of 192.168.1.0/24"),
    "router elsewhere than the uplink": ('uplink = "wlan0"', f'uplink = "wlan0"\n{STATIC.format("192.168.1.5/24", "192.168.2.1")}', "uplink_router", "192.168.2.1 is outside the network of uplink_address, 192.168.1.0/24"),
    "router that is the gateway": ('uplink = "wlan0"', f'uplink = "wlan0"\n{STATIC.format("192.168.1.5/24", "192.168.1.5")}', "uplink_router", "192.168.1.5 is the address of master itself"),
    "static uplink of a worker": (WORKER2, f'{WORKER2}\n{STATIC.format("192.168.1.5/24", "192.168.1.1")}', "uplink_address", "node[3].uplink_address: worker2 has no uplink"),
    "Wi-Fi uplink elsewhere": ('uplink = "wlan0"', 'uplink = "wlan1"', "uplink", "node[1].uplink: wlan1 is wireless, but [node.wifi] is for another interface"),
    "the same network as fallback": (PSK, f'{PSK}\n[node.wifi.fallback]\nssid = "HomeNetwork"', 'ssid = "HomeNetwork"   #', "node[1].wifi.fallback.ssid: is the network that it is to replace"),
    "country of a fallback": (PSK, f'{PSK}\n[node.wifi.fallback]\nssid = "x"\ncountry = "GB"', 'country = "GB"   #', "node[1].wifi.fallback.country: unknown key"),
    "WPA3 without a passphrase": (PSK, 'security = "wpa3"', "security", "node[1].wifi.security: wpa3 needs passphrase"),
    "open with a passphrase": (PSK, f'{PSK}\nsecurity = "owe"', "security", "node[1].wifi.security: a network that is owe has no passphrase"),
    "unknown security": (PSK, f'{PSK}\nsecurity = "wep"', "security", "node[1].wifi.security: takes 'wpa2', 'wpa3', 'wpa2/wpa3', 'open' or 'owe'"),
    "DHCP behind a gateway": ('"10.0.0.12"', '"dhcp"', '"dhcp"', 'node[3].address: "dhcp" needs a router on the LAN'),
    "no address": ('"10.0.0.12"', '"DHCP"', '"DHCP"', 'node[3].address: is not an IPv4 address such as "10.0.0.1", or "dhcp"'),
    "Wi-Fi LAN without Wi-Fi": (WORKER2, f'{WORKER2}\ninterface = "wlan0"', "interface", "node[3].interface: wlan0 is wireless, but the node has no [node.wifi]"),
    "IPv6 of the internet": ("[lan] ", '[lan]\nipv6 = "2001:db8::/64"\n#', "ipv6", "lan.ipv6: takes a unique local IPv6 network of 64 bits"),
    "IPv6 of another size": ("[lan] ", '[lan]\nipv6 = "fd12::/48"\n#', "ipv6", "lan.ipv6: takes a unique local IPv6 network of 64 bits"),
    "IPv6 address": ("[lan] ", '[lan]\nipv6 = "fd12::1/64"\n#', "ipv6", "lan.ipv6: takes a unique local IPv6 network of 64 bits"),
    "IPv6 as a number": ("[lan] ", "[lan]\nipv6 = 6\n#", "ipv6", "lan.ipv6: takes a unique local IPv6 network of 64 bits"),
    "router and gateway": ('[lan] ', '[lan]\nrouter = "10.0.0.254"\n#', "uplink = ", "node[1].uplink: lan.router 10.0.0.254 is the way out of all nodes"),
    "router and the gateway's table": ('[lan] ', '[lan]\nrouter = "10.0.0.254"\n#', "[gateway]", "gateway: with lan.router there is no gateway: remove this table"),
    "router elsewhere": ('[lan] ', '[lan]\nrouter = "10.0.1.1"\n#', "router =", "lan.router: 10.0.1.1 is outside the LAN 10.0.0.0/24"),
    "router that is a node": ('[lan] ', '[lan]\nrouter = "10.0.0.12"\n#', "router =", "lan.router: 10.0.0.12 is the address of worker2"),
    "router that is no address": ('[lan] ', '[lan]\nrouter = "fritz.box"\n#', "router =", "lan.router: is not an IPv4 address"),
    "two gateways": (WORKER2, f'{WORKER2}\nuplink = "eth1"', "eth1", "node[3].uplink: two gateways: master and worker2"),
    "uplink on the LAN": ('uplink = "wlan0"', 'uplink = "eth0"', "eth0", "node[1].uplink: eth0 is also the LAN interface"),
    "hostname": (WORKER2, 'name = "worker_2"', "worker_2", "node[3].name: 'worker_2' is not a hostname (RFC 1123)"),
    "hyphen at the end": (WORKER2, 'name = "w-"', '"w-"', "node[3].name: 'w-' is not a hostname"),
    "long hostname": (WORKER2, f'name = "{"w" * 64}"', "wwww", "is not a hostname"),
    "localhost": (WORKER2, 'name = "localhost"', "localhost", "node[3].name: 'localhost' is not a hostname"),
    "domain": ('"picluster.internal"', '"a..b"', "a..b", "cluster.domain: 'a..b' is not a domain name"),
    "role": ('role = "master"', 'role = "queen"', "queen", "node[1].role: no layer for the role queen: create overlays/queen/"),
    "layer": (WORKER2, f'{WORKER2}\nlayers = ["mpi"]', "mpi", "node[3].layers[1]: no layer is named mpi (available: base,"),
    "layer of the cluster": ("keyboard =", 'layers = ["basse"]\nkeyboard =', "basse", "cluster.layers[1]: no layer is named basse; is base meant?"),
    "layer of a role": ("[gateway]", '[role.worker]\nlayers = ["wroker"]\n[gateway]', "wroker", "role.worker.layers[1]: no layer is named wroker; is worker meant?"),
    "layer that climbs": (WORKER2, f'{WORKER2}\nlayers = ["a/../../b"]', "../", "is not a layer name"),
    "board": ('"pi-4b"', '"pi-7"', "pi-7", "node[1].board: takes 'pi-zero'"),
    "control character": ('"HomeNetwork"', '"Home\\u001b[2J"', "Home\\", "node[1].wifi.ssid: contains a control character"),
    "long SSID": ('"HomeNetwork"', f'"{"ä" * 17}"', "ää", f"node[1].wifi.ssid: {'ä' * 17!r} is not a network name (SSID) of 1 to 32 bytes"),
    "country": ('country = "GB"', 'country = "gb"', 'country = "gb"', "node[1].wifi.country: 'gb' is not a country code"),
    "United Kingdom": ('country = "GB"', 'country = "UK"', '"UK"', "no wireless rules for a country UK; is GB meant?"),
    "no country": ('country = "GB"', 'country = "XX"', '"XX"', "node[1].wifi.country: the kernel has no wireless rules for a country XX"),
    "time zone": ("Europe/London", "Europe/Lodnon", "Lodnon", "no time zone is named Europe/Lodnon; is Europe/London meant?"),
    "locale without a character set": ("en_GB.UTF-8", "fr_FR", "fr_FR", "cluster.locale: fr_FR has no character set; write fr_FR.UTF-8"),
    "locale as locale -a writes it": ("en_GB.UTF-8", "de_DE.utf8", "utf8", "cluster.locale: glibc has no character set utf8; write de_DE.UTF-8"),
    "keyboard": ('keyboard = "gb"', 'keyboard = "bépo"', "bépo", "'bépo' is not a keyboard layout such as gb, or with"),
    "VLAN 0": (WORKER2, f'{WORKER2}\ninterface = "eth0.0"', "eth0.0", "node[3].interface: 'eth0.0' is not a network interface such as eth0, or a VLAN such as eth0.10"),
    "VLAN 4095": (WORKER2, f'{WORKER2}\ninterface = "eth0.4095"', "eth0.4", "'eth0.4095' is not a network interface"),
    "VLAN in a VLAN": (WORKER2, f'{WORKER2}\ninterface = "eth0.1.2"', "eth0.1", "'eth0.1.2' is not a network interface"),
    "VLAN of Wi-Fi": (WORKER2, f'{WORKER2}\ninterface = "wlan0.5"', "wlan0.5", "'wlan0.5' is not a network interface"),
    "long name of a VLAN": (WORKER2, f'{WORKER2}\ninterface = "enxb827eb000.100"', "enxb8", "'enxb827eb000.100' is not a network interface"),
    "VLANs of two ports": ('uplink = "wlan0"', 'uplink = "eth1.20"\ninterface = "eth0.10"', "uplink", "node[1].uplink: eth1.20 and eth0.10 are VLANs of two ports"),
    "DSA key": ("# authorized_keys = [", 'authorized_keys = ["ssh-dss AAAAB3NzaC1kc3M="] #', "ssh-dss", "OpenSSH refuses ssh-dss"),
    "key that is near another": ("timezone =", "time-zone =", "time-zone", "cluster.time-zone: unknown key; is timezone meant?"),
    "secret in the open": ('{ secret = "wifi_psk" }', '"hunter22"', "hunter22", "passphrase: takes { secret = "),
    "reserved secret": ('"wifi_psk"', '"host_key"', "host_key", "host_key is reserved for a secret that piimg generates"),
    "address of a network": ('"10.0.0.0/24"', '"10.0.0.1/24"', "10.0.0.1/24", "lan.network: 10.0.0.1/24 is the address of a machine"),
    "loopback": ('"10.0.0.0/24"', '"127.0.0.0/8"', "127.", "lan.network: 127.0.0.0/8 cannot be a LAN"),
    "user": ('name = "pi"', 'name = "root"', '"root"', "user.name: 'root' is not a user name"),
    "policy": ('"on-demand"', '"maybe"', "maybe", "gateway.policy: takes 'off', 'on' or 'on-demand'"),
    "half a key": ("# authorized_keys = [", 'authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"] #', "AAAAC3", "not a complete SSH public key"),
    "swap": ('keyboard = "gb"', 'keyboard = "gb"\nswap = "512"', "swap =", 'cluster.swap: takes "default", "off", "zram", or a size'),
    "variable": ("[gateway]", "[vars]\nx = 1.5\n[gateway]", "x = 1.5", "vars.x: takes text, a whole number"),
    "dotted key": ("[gateway]", "gateway.colour = 1\n[vars]", "gateway.c", "user.gateway: unknown key"),
}
# fmt: on


@pytest.mark.parametrize("case", CASES)
def test_each_error_is_reported_with_its_line(case: str) -> None:
    before, after, at, said = CASES[case]
    text = changed(before, after)
    reported = errors(text)
    mine = [one for one in reported if said in one]
    assert mine, reported
    assert mine[0].startswith(f"{line(text, at)}: ")
    assert "hunter22" not in str(reported)


def test_a_board_that_does_not_start_the_base() -> None:
    text = changed('"pi-4b"', '"pi-zero"')
    assert errors(text, "arm64") == [
        f"{line(text, 'pi-zero')}: node[1].board: Raspberry Pi Zero / Zero W cannot boot "
        "raspios-trixie-arm64-lite (arm64); it needs armhf"
    ]
    assert parse(text, "armhf")
    assert parse(text)


def test_wireless_uplink_without_wifi() -> None:
    start = TEXT.index("[node.wifi]")
    text = TEXT[:start] + TEXT[TEXT.index("[[node]]", start) :]
    assert errors(text) == [
        f"{line(text, 'uplink')}: node[1].uplink: wlan0 is wireless, but the node has no [node.wifi]"
    ]


def test_a_wrong_router_is_one_error() -> None:
    """Not also that there is no way out."""
    text = changed('uplink = "wlan0"', "", changed("[gateway]\npolicy = ", "[vars]\nx = "))
    text = changed("[lan] ", '[lan]\nrouter = "10.0.0"\n#', text)
    assert errors(text) == [f'{line(text, "router")}: lan.router: is not an IPv4 address such as "10.0.0.1"']


def test_the_uplink_may_be_static() -> None:
    gateway = parse(
        changed('uplink = "wlan0"', f'uplink = "eth1"\n{STATIC.format("192.168.1.5/24", "192.168.1.1")}')
    ).gateway
    assert gateway is not None
    assert (gateway.uplink, gateway.address, gateway.router) == (
        "eth1",
        IPv4Interface("192.168.1.5/24"),
        IPv4Address("192.168.1.1"),
    )


def test_wifi_networks_of_each_kind() -> None:
    wifi = (
        parse(
            changed(
                PSK, f'{PSK}\nsecurity = "wpa2/wpa3"\nhidden = true\n[node.wifi.fallback]\nssid = "Phone"'
            )
        )
        .nodes[0]
        .wifi
    )
    assert wifi is not None
    assert wifi.networks == (
        WifiNetwork("HomeNetwork", Secret("wifi_psk"), WifiSecurity.BOTH, hidden=True),
        WifiNetwork("Phone", None, WifiSecurity.OPEN),
    )


@pytest.mark.parametrize("name", ["eth0.1", "eth0.10", "eth1.100", "end0.4094", "eth0.999"])
def test_an_interface_may_be_a_vlan(name: str) -> None:
    cluster = parse(changed(WORKER2, f'{WORKER2}\ninterface = "{name}"'))
    assert cluster.nodes[2].interface == name
    assert cluster.idle_ports(cluster.nodes[2]) == (name.partition(".")[0],)
    assert cluster.idle_ports(cluster.nodes[1]) == ()
    assert {name, name.partition(".")[0]} <= cluster.interfaces


def test_a_cluster_without_a_gateway() -> None:
    text = changed('uplink = "wlan0"', "", changed("[gateway]\npolicy = ", "[vars]\nx = "))
    cluster = parse(changed("[lan] ", '[lan]\nrouter = "10.0.0.254"\n#', text))
    assert (cluster.gateway, cluster.gateway_node) == (None, None)
    assert cluster.router == IPv4Address("10.0.0.254")
    assert {cluster.way_out(node) for node in cluster.nodes} == {cluster.router}
    assert not any(map(cluster.is_gateway, cluster.nodes))
    assert cluster.interfaces == {"eth0", "wlan0"}


def test_all_errors_of_a_file_in_one_go() -> None:
    """Of the shape and between the parts, in the order of the file; nothing follows from another error."""
    text = TEXT
    text = changed('name = "picluster"', 'name = "pi cluster"', text)
    text = changed("timezone =", "time-zone =", text)
    text = changed('"10.0.0.0/24"', '"10.0.0.0/33"', text)
    text = changed('uplink = "wlan0"', "uplink = 5", text)
    text = changed('ssid = "HomeNetwork"\n', "", text)
    text = changed('name = "worker2"', 'name = "worker 2"', text)
    text = changed('"10.0.0.13"', '"10.0.0.12"', text)
    text = changed('name = "worker4"', 'name = "worker1"', text)
    text = changed('address = "10.0.0.15"', "", text)
    assert [re.sub(r"^\d+: ", "", error) for error in errors(text)] == [
        "cluster.name: 'pi cluster' is not a hostname (RFC 1123)",
        "cluster.time-zone: unknown key; is timezone meant?",
        'lan.network: is not an IPv4 network such as "10.0.0.0/24"',
        "node[1].uplink: takes text in quotes",
        "node[1].wifi.ssid: missing",
        "node[3].name: 'worker 2' is not a hostname (RFC 1123)",
        "node[4].address: 10.0.0.12 is already the address of another-node",
        "node[5].name: two nodes are called worker1",
        "node[6].address: missing",
    ]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "has 4 errors"),
        (b"\xff\xfe[cluster]", "cluster.toml:1: not UTF-8 text"),
        (b"[cluster]\nname = \xc3\x28", "cluster.toml:2: not UTF-8 text"),
        (b"[cluster\nname = 1", "cluster.toml:1: not TOML"),
        (b"[cluster]\nname = ", "cluster.toml:2: not TOML"),
        (b"a = 1\na = 2", "cluster.toml:2: not TOML: a is set twice"),
        (b"a = 1\na = 2\n", "cluster.toml:2: not TOML: a is set twice"),
        (b"name = pi\n", 'cluster.toml:1: not TOML: invalid value; text needs quotes, such as "pi"'),
        (
            b"[node]\na = 1\n[[node]]\na = 1\n",
            "cluster.toml:3: not TOML: node is declared twice: join both, or for a list write [[node]]",
        ),
        (b"[a.'b c']\n[a.'b c']\n", "cluster.toml:2: not TOML: a.'b c' is declared twice"),
        (b"<html>", "cluster.toml:1: not TOML"),
        (b"a = " + b"9" * 5000, "cluster.toml:1: not TOML"),
        (b"a = 2024-99-99", "cluster.toml:1: not TOML"),
        (b"a = " + b"[" * 5000, "cluster.toml: nested too deeply"),
        (b"a." * 20000 + b"a = 1", "cluster.toml:1: more than 100 dots"),
        (b"node = 3", "errors"),
        (b"node = [1, [], {}]", "errors"),
    ],
)
def test_what_is_no_manifest(raw: bytes, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(raw)
    assert said in refused.value.message


def test_one_bracket_instead_of_two() -> None:
    text = TEXT.split("[[node]]")[0] + '[node]\nname = "a"\n'
    number = text.count("\n", 0, text.index("[node]")) + 1
    assert f"{number}: node: write [[node]], with two brackets" in errors(text)


def test_line_ends_and_marks_of_windows() -> None:
    text = "\ufeff" + TEXT.replace("\n", "\r\n")
    assert parse(text).name == "picluster"
    assert errors(changed('"GB"', '"gb"', text))[0].startswith(
        f"{line(text, 'country')}: node[1].wifi.country"
    )


@pytest.mark.parametrize("kind", ["missing", "folder", "huge", "endless"])
def test_files_that_cannot_be_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    match kind:
        case "folder":
            path.mkdir()
        case "huge":
            path.write_bytes(b"#" * (SIZE_LIMIT + 1))
        case "endless":
            path = Path("/dev/zero")
    with pytest.raises(UsageError) as refused:
        manifest.load(path)
    assert str(path) in refused.value.message
    assert refused.value.hint
