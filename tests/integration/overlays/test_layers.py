"""The shipped layers, rendered for the example cluster on each release and read by the tools that will."""

import configparser
import contextlib
import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder import resources
from imagebuilder.image.partitions import boot_and_root, read_table
from imagebuilder.keys import derive
from imagebuilder.model import Entry, Kind, NodePlan, Partition, Release
from imagebuilder.overlay import layer
from tests.conftest import SPECIMENS
from tests.integration.overlays import machines, rendered
from tests.integration.overlays.machines import Machine, machine

RELEASES = list(Release)
NODES = ("master", "worker1")
_MISSING = machines.missing()

HOSTILE_SSID = 'a"b;é #'


@pytest.fixture(params=[f"{release}-{node}" for release in RELEASES for node in NODES])
def planned(request: pytest.FixtureRequest) -> NodePlan:
    release, node = request.param.split("-")
    return rendered.node_plan(node, Release(release))


def _text(planned: NodePlan, path: str, partition: Partition = Partition.ROOT) -> str:
    return rendered.files(planned, partition)[path].content.decode()


def _added(planned: NodePlan, path: str) -> list[str]:
    return [
        line
        for entry in planned.entries
        if entry.path == path and entry.kind in (Kind.LINES, Kind.WORDS)
        for line in entry.content.decode().splitlines()
    ]


# --- the same on every release ---


def test_a_node_knows_its_name_and_all_the_others(planned: NodePlan) -> None:
    assert _text(planned, "/etc/hostname") == f"{planned.node.name}\n"
    hosts = _text(planned, "/etc/hosts")
    for node in rendered.cluster().nodes:
        assert f"\n{node.address} {node.name}.picluster.internal {node.name}\n" in hosts


def test_the_boot_partition_says_whose_card_it_is(planned: NodePlan) -> None:
    identity = json.loads(_text(planned, "/piimg.json", Partition.BOOT))
    assert identity["cluster"] == "picluster"
    assert identity["node"] == planned.node.name
    assert identity["release"] == planned.release
    assert identity["manifest"] == rendered.cluster().digest
    assert _text(planned, "/userconf.txt", Partition.BOOT) == "pi:*\n"
    assert _text(planned, "/ssh", Partition.BOOT) == ""


def test_host_keys_are_known_to_the_whole_cluster(planned: NodePlan, tmp_path: Path) -> None:
    known = tmp_path / "ssh_known_hosts"
    known.write_text(_text(planned, "/etc/ssh/ssh_known_hosts"))
    private = tmp_path / "key"
    private.write_text(_text(planned, "/etc/piimg/ssh/ssh_host_ed25519_key"))
    private.chmod(0o600)
    public = _run("ssh-keygen", "-y", "-f", str(private)).split()[1]
    assert public == _text(planned, "/etc/piimg/ssh/ssh_host_ed25519_key.pub").split()[1]
    for name in (planned.node.name, str(planned.node.address), f"{planned.node.name}.picluster.internal"):
        assert public in _run("ssh-keygen", "-F", name, "-f", str(known))
    for node in rendered.cluster().nodes:
        assert "found" in _run("ssh-keygen", "-F", node.name, "-f", str(known))


def _run(*command: str, data: bytes | None = None) -> str:
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout.decode()


def test_secrets_are_marked_and_private(planned: NodePlan) -> None:
    files = rendered.files(planned)
    private = ["/etc/piimg/ssh/ssh_host_ed25519_key"]
    if planned.node.name != "master":
        private.append("/etc/piimg/gateway_key")
    private += [path for path in files if "wifi" in path or "wpa_supplicant" in path]
    for path in private:
        assert (files[path].secret, files[path].mode, files[path].uid) == (True, 0o600, 0), path
    assert rendered.files(planned, Partition.BOOT)["/userconf.txt"].secret
    plain = b"".join(entry.content for entry in planned.entries if not entry.secret)
    assert rendered.PASSPHRASE.encode() not in b"".join(entry.content for entry in planned.entries)
    assert derive.wifi_psk(rendered.SSID, rendered.PASSPHRASE).encode() not in plain
    assert b"PRIVATE KEY" not in plain


def test_modes_and_owners_are_what_the_programs_insist_on(planned: NodePlan) -> None:
    modes = {entry.path: (entry.mode, entry.uid) for entry in planned.entries}
    assert modes["/home/pi/.ssh"] == (0o700, 1000)
    assert modes["/home/pi/.ssh/authorized_keys"] == (0o600, 1000)
    for path, (mode, uid) in modes.items():
        if path.startswith("/etc/sudoers.d/"):
            assert (mode, uid) == (0o440, 0)
        if path.startswith(("/usr/local/bin/", "/usr/local/sbin/", "/usr/local/lib/piimg/firstboot.d/")):
            assert (mode, uid) == (0o755, 0)


def test_what_the_first_boot_owns_is_left_to_it(planned: NodePlan) -> None:
    paths = {(entry.partition, entry.path): entry.kind for entry in planned.entries}
    assert (Partition.ROOT, "/etc/machine-id") not in paths
    assert (Partition.ROOT, "/etc/fstab") not in paths
    assert paths.get((Partition.BOOT, "/cmdline.txt"), Kind.WORDS) is Kind.WORDS
    assert not any(path.startswith("/etc/ssh/ssh_host_") for _, path in paths)


def test_the_way_out_and_the_time_are_the_gateways(planned: NodePlan) -> None:
    files = rendered.files(planned)
    if planned.node.name == "master":
        assert "POLICY='on-demand'" in _text(planned, "/etc/piimg/gateway.conf")
        assert "UPLINK='wlan0'" in _text(planned, "/etc/piimg/gateway.conf")
        assert "allow 10.0.0.0/24" in _text(planned, "/etc/chrony/conf.d/piimg.conf")
        assert "/etc/piimg/gateway_key" not in files
        assert _added(planned, "/cmdline.txt") == ["cfg80211.ieee80211_regdom=GB"]
    else:
        assert "NTP=10.0.0.1" in _text(planned, "/etc/systemd/timesyncd.conf.d/10-piimg.conf")
        assert "GATEWAY='10.0.0.1'" in _text(planned, "/etc/piimg/node.conf")
        assert "/etc/piimg/gateway.conf" not in files
        assert _added(planned, "/cmdline.txt") == []


@pytest.mark.parametrize("release", Release)
def test_the_master_is_not_dressed_only_for_the_time(release: Release) -> None:
    script = f"{layer.FIRSTBOOT_FOLDER}/30-time"
    for packages in ((), ("htop",)):
        given = rendered.cluster()
        nodes = (dataclasses.replace(n, packages=dict.fromkeys(packages, ("cluster",))) for n in given.nodes)
        given = dataclasses.replace(given, nodes=tuple(nodes))
        master, worker = (rendered.node_plan(name, release, given) for name in ("master", "worker1"))
        assert set(master.software.packages) == {*packages, *(["chrony"] if packages else [])}
        assert (script in rendered.files(master)) == (not packages)
        assert "/etc/chrony/conf.d/piimg.conf" in rendered.files(master)
        assert set(worker.software.packages) == set(packages)


def test_place_and_language(planned: NodePlan) -> None:
    links = {entry.path: entry.target for entry in planned.entries if entry.kind is Kind.LINK}
    assert links["/etc/localtime"] == "/usr/share/zoneinfo/Europe/London"
    assert _added(planned, "/etc/locale.gen") == ["en_GB.UTF-8 UTF-8"]
    place = "/etc/locale.conf" if planned.release is Release.TRIXIE else "/etc/default/locale"
    assert _text(planned, place) == "LANG=en_GB.UTF-8\n"
    assert 'XKBLAYOUT="gb"' in _text(planned, "/etc/default/keyboard")


def test_the_settings_of_the_programs_are_shell(planned: NodePlan, tmp_path: Path) -> None:
    conf = tmp_path / "node.conf"
    conf.write_text(_text(planned, "/etc/piimg/node.conf"))
    said = _run("bash", "-euc", f'. {conf}; echo "$NODE $ADDRESS $BOOT_MOUNT"')
    assert said == f"{planned.node.name} {planned.node.address} {planned.release.facts.boot_mount}\n"


def test_a_master_that_is_not_the_gateway_goes_out_like_any_other() -> None:
    given = rendered.cluster()
    assert given.gateway is not None
    given = dataclasses.replace(given, gateway=dataclasses.replace(given.gateway, node="worker2"))
    planned = rendered.node_plan("master", Release.BOOKWORM, given)
    about = [path for path in rendered.files(planned) if "gateway" in path and not path.startswith("/usr")]
    assert about == ["/etc/systemd/system/piimg-gateway.service", "/etc/sysusers.d/piimg-gateway.conf"]
    lan = _keyfile(rendered.files(planned)[f"{_FOLDER}/piimg-lan.nmconnection"])
    assert lan["ipv4"]["address1"] == "10.0.0.1/24,10.0.0.12"


# --- the network, a release at a time ---


@pytest.mark.parametrize("release", Release)
def test_no_ipv6_router_on_the_lan_leads_out(release: Release) -> None:
    said = _text(rendered.node_plan("worker1", release), "/etc/sysctl.d/60-piimg-lan.conf")
    assert [line for line in said.splitlines() if not line.startswith("#")] == [
        "net.ipv6.conf.eth0.accept_ra = 0"
    ]


def test_bullseye_speaks_dhcpcd() -> None:
    master, worker = (rendered.node_plan(name, Release.BULLSEYE) for name in NODES)
    assert _added(worker, "/etc/dhcpcd.conf") == [
        "static ip_address=10.0.0.11/24",
        "static domain_name_servers=1.1.1.1 9.9.9.9",
        "static domain_search=picluster.internal",
        "noipv6rs",
        "static routers=10.0.0.1",
    ]
    assert "static routers=10.0.0.1" not in _added(master, "/etc/dhcpcd.conf")
    theirs = [entry for entry in worker.entries if entry.path == "/etc/dhcpcd.conf"]
    assert {entry.section for entry in theirs} == {"interface eth0"}
    wifi = _text(master, "/etc/wpa_supplicant/wpa_supplicant.conf")
    assert f"psk={derive.wifi_psk(rendered.SSID, rendered.PASSPHRASE)}\n" in wifi
    assert f"ssid={rendered.SSID.encode().hex()}\n" in wifi
    assert "country=GB\n" in wifi
    assert not any("NetworkManager" in path or "netplan" in path for path in rendered.files(master))


def _keyfile(entry: Entry) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.read_string(entry.content.decode())
    return parser


_FOLDER = "/etc/NetworkManager/system-connections"


KEYFILES = (Release.BOOKWORM, Release.TRIXIE)


@pytest.mark.parametrize("release", KEYFILES)
def test_networkmanager_gets_keyfiles(release: Release) -> None:
    master, worker = (rendered.files(rendered.node_plan(name, release)) for name in NODES)
    lan = _keyfile(worker[f"{_FOLDER}/piimg-lan.nmconnection"])
    assert lan["ipv4"]["address1"] == "10.0.0.11/24,10.0.0.1"
    assert lan["ipv4"]["dns"] == "1.1.1.1;9.9.9.9;"
    assert lan["connection"]["interface-name"] == "eth0"
    own = _keyfile(master[f"{_FOLDER}/piimg-lan.nmconnection"])
    assert (own["ipv4"]["address1"], own["ipv4"]["never-default"]) == ("10.0.0.1/24", "true")
    assert own["connection"]["uuid"] != lan["connection"]["uuid"]
    wifi = _keyfile(master[f"{_FOLDER}/piimg-wifi.nmconnection"])
    assert wifi["wifi-security"]["psk"] == derive.wifi_psk(rendered.SSID, rendered.PASSPHRASE)
    assert b"WirelessEnabled=true" in master["/var/lib/NetworkManager/NetworkManager.state"].content
    assert master[f"{_FOLDER}/piimg-lan.nmconnection"].mode == 0o600
    assert not any("wifi" in path for path in worker)


def test_two_releases_have_the_same_keyfiles() -> None:
    for name in NODES:
        of = [rendered.files(rendered.node_plan(name, release)) for release in KEYFILES]
        found = [{path: one for path, one in files.items() if path.startswith(_FOLDER)} for files in of]
        assert found[0] and {one.layer for one in found[0].values()} == {"network-manager"}
        assert found[0] == found[1]


@pytest.mark.skipif(shutil.which("nmcli") is None, reason="needs nmcli (network-manager)")
@pytest.mark.parametrize("release", KEYFILES)
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("ssid", [rendered.SSID, HOSTILE_SSID, "Home \N{ANTENNA WITH BARS}"])
def test_networkmanager_reads_the_keyfiles(node: str, ssid: str, release: Release) -> None:
    files = rendered.files(rendered.node_plan(node, release, rendered.with_wifi(ssid)))
    for path, entry in files.items():
        if path.startswith(_FOLDER):
            # libnm reads the profile from standard input, checks it, and writes it again
            said = _run(
                "nmcli", "--offline", "connection", "modify", "autoconnect", "yes", data=entry.content
            )
            assert "interface-name=" in said
            if "wifi" in path:
                assert _ssid(said) == ssid.encode()


def _ssid(keyfile: str) -> bytes:
    """The network's name in a keyfile as libnm writes it: text, or bytes when text would not do."""
    value = next(line for line in keyfile.splitlines() if line.startswith("ssid=")).removeprefix("ssid=")
    if value.endswith(";") and value.replace(";", "").isdigit():
        return bytes(int(byte) for byte in value.split(";")[:-1])
    return value.replace("\\;", ";").encode()


def test_trixie_has_one_authority() -> None:
    for name, interfaces in zip(NODES, (b"eth0 wlan0", b"eth0"), strict=True):
        planned = rendered.node_plan(name, Release.TRIXIE)
        assert rendered.files(planned)["/etc/cloud/cloud-init.disabled"].content == b""
        (cleared,) = [entry for entry in planned.entries if "netplan" in entry.path]
        assert (cleared.kind, cleared.path) == (Kind.NETPLAN, "/etc/netplan/*.yaml")
        assert cleared.content == interfaces


# --- read by the programs themselves ---


@pytest.fixture(scope="module", params=NODES)
def dressed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine of its own that got a node's files."""
    if _MISSING:
        pytest.skip(_MISSING)
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(machine(request.param, tmp_path_factory.mktemp(request.param)))
        made.install(rendered.node_plan(request.param, Release.BOOKWORM))
        made.shell("id -u pi >/dev/null 2>&1 || useradd --no-create-home pi")
        yield made


def test_sshd_takes_the_settings(dressed: Machine) -> None:
    if dressed.name == "master":
        dressed.shell("systemd-sysusers piimg-gateway.conf")
    dressed.shell("rm -f /etc/ssh/ssh_host_*_key*; sshd -t")  # as the first boot may leave it
    settings = dressed.shell("sshd -T -C user=pi,host=x,addr=10.0.0.12").splitlines()
    assert "passwordauthentication no" in settings
    assert "kbdinteractiveauthentication no" in settings
    assert "forcecommand none" in settings
    assert [line for line in settings if line.startswith("hostkey ")] == [
        "hostkey /etc/piimg/ssh/ssh_host_ed25519_key"
    ]


def test_sshd_gives_the_workers_key_one_command(dressed: Machine) -> None:
    settings = dressed.shell("sshd -T -C user=piimg-gateway,host=x,addr=10.0.0.12").splitlines()
    forced = [line for line in settings if line.startswith("forcecommand")]
    if dressed.name == "master":
        assert forced == ["forcecommand sudo -n /usr/local/sbin/piimg-gateway hold"]
        assert {"disableforwarding yes", "permittty no", "clientaliveinterval 15"} <= set(settings)
        assert "authorizedkeysfile /etc/piimg/gateway_authorized_keys" in settings
    else:
        assert forced == ["forcecommand none"]


def test_sudo_takes_its_rules(dressed: Machine) -> None:
    dressed.run("visudo", "-c")
    assert "NOPASSWD: ALL" in dressed.run("sudo", "-l", "-U", "pi").stdout
    if dressed.name == "master":
        dressed.shell("systemd-sysusers piimg-gateway.conf")
        said = dressed.run("sudo", "-l", "-U", "piimg-gateway").stdout
        assert said.rstrip().endswith("(root) NOPASSWD: /usr/local/sbin/piimg-gateway hold")


def test_systemd_takes_the_units(dressed: Machine) -> None:
    units = dressed.shell("ls /etc/systemd/system/piimg-*.service").split()
    # /sys is not the machine's own, so systemd's remarks about anything but these units are not of interest
    said = dressed.run("systemd-analyze", "verify", "--man=no", *units, ok=None)
    assert not [line for line in (said.stdout + said.stderr).splitlines() if "piimg" in line], said
    assert said.returncode == 0, said


# --- what the base images have ---


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_specimen_has_what_the_layers_build_on(name: str, specimen: Callable[[str], Path]) -> None:
    release = Release(name.partition("-")[0])
    image = specimen(name)
    boot, root = boot_and_root(read_table(image))
    for node in NODES:
        entries = rendered.node_plan(node, release).entries
        ours = {entry.path for entry in entries if entry.kind is Kind.FILE}
        for entry in entries:
            if entry.kind in (Kind.LINES, Kind.WORDS, Kind.REMOVE) and not entry.optional:
                _must_have(image, boot.start if entry.partition is Partition.BOOT else root.start, entry)
            if entry.kind is Kind.LINK and "/systemd/system/" in entry.target and entry.target not in ours:
                assert "Inode:" in _run(
                    "debugfs", "-R", f"stat {entry.target}", f"{image}?offset={root.start}"
                )


def _must_have(image: Path, start: int, entry: Entry) -> None:
    if entry.partition is Partition.BOOT:
        _run("mtype", "-i", f"{image}@@{start}", f"::{entry.path}")
    else:
        said = _run("debugfs", "-R", f"stat {entry.path}", f"{image}?offset={start}")
        assert "Type: regular" in said, f"{image.name} has no {entry.path}"


def test_every_shipped_layer_says_what_it_is_for() -> None:
    for folder in sorted(resources.shipped("overlays").iterdir()):
        if (folder / "layer.toml").exists():
            assert "description = " in (folder / "layer.toml").read_text(), folder.name
