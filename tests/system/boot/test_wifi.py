"""Wi-Fi of each kind, joined by the programs of a booted node, with simulated radios (mac80211_hwsim).

One radio is the node's, set up by what the layers give it; the other one is the access point, by a
wpa_supplicant of the test. Radios of boards are not tested: their firmware is what differs.
"""

import shlex
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from imagebuilder.boot.run import Guest, bring_up, guest, node_disk, settle
from imagebuilder.events import Silent
from imagebuilder.model import Release
from tests.conftest import SCRIPTS
from tests.integration.overlays import rendered
from tests.integration.overlays.network_files import planned
from tests.support import networks
from tests.support.cluster import make_place
from tests.system.boot.conftest import CACHE, RELEASES
from tests.system.boot.rig import expected, laboratory

pytestmark = [pytest.mark.networks, pytest.mark.timeout(1800)]

NODE = "master"
MODULES = ("net/rfkill/rfkill", "lib/crypto/libarc4", "net/wireless/cfg80211", "net/mac80211/mac80211")
SIMULATED = "drivers/net/wireless/mac80211_hwsim"
_KEYS = f'psk="{rendered.PASSPHRASE}"'
_SAE = f'sae_password="{rendered.PASSPHRASE}"'
POINTS = {
    "wpa2": ("key_mgmt=WPA-PSK", "proto=RSN", "pairwise=CCMP", _KEYS),
    "wpa3": ("key_mgmt=SAE", "proto=RSN", "pairwise=CCMP", _SAE, "ieee80211w=2"),
    "wpa2/wpa3": ("key_mgmt=WPA-PSK SAE", "proto=RSN", "pairwise=CCMP", _KEYS, _SAE, "ieee80211w=1"),
    "open": ("key_mgmt=NONE",),
}
"""The settings of an access point of each kind (wpa_supplicant.conf(5))."""

JOINS = [
    ("wpa2", "wpa2", "WPA2-PSK"),
    ("wpa3", "wpa3", "SAE"),
    ("wpa2/wpa3", "wpa2", "WPA2-PSK"),
    ("wpa2/wpa3", "wpa3", "SAE"),
    ("wpa2/wpa3", "wpa2/wpa3", "SAE"),
    ("open", "open", "NONE"),
]
"""The security in the manifest, that of the access point, and what is then used.

Not OWE: no node joined an access point that a wpa_supplicant was. test_readers.py has its files read.
"""

CASES = [
    (release, *join)
    for release in RELEASES
    for join in JOINS
    if Release(release).facts.wpa3 or "wpa3" not in join[1]
]
"""Not with WPA3 on Bullseye: no board has it there, and its wpa_supplicant is no such access point."""


@pytest.fixture(scope="module")
def radios(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Release, Guest]]:
    """A gateway that is up, with Wi-Fi by a simulated radio."""
    folder = tmp_path_factory.mktemp(request.param)
    place = make_place(folder, folder / "cache")
    place.manifest.write_text(networks.ETHERNET_UPLINK)
    subprocess.run([SCRIPTS / "make-debian-base", request.param, folder / "base.img"], check=True)
    place.good("build", "--node", NODE, "--base", folder / "base.img")
    shutil.rmtree(place.cache)
    try:
        with laboratory(place, [NODE]) as lab:
            node = lab.cluster.node(NODE)
            with guest(lab, node, node_disk(lab, node, place.build / f"{NODE}.img")) as one:
                bring_up(one, Silent())
                settle(one, expected(place, NODE, request.param))
                _simulate(one)
                yield Release(request.param), one
    finally:
        shutil.rmtree(folder)  # gigabytes


def said(one: Guest, command: str, data: bytes = b"") -> str:
    """What a command of root says on the node; it must succeed."""
    done = one.login.run(f"sudo sh -c {shlex.quote(command)}", data)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.decode()


def _simulate(one: Guest) -> None:
    """Two simulated radios: wlan0, and wlan1 that only the access point uses."""
    version = said(one, "uname -r").strip()
    (kernel,) = CACHE.boot.glob(f"packages-*/lib/modules/{version}/kernel")
    for module in (*MODULES, SIMULATED):
        (file,) = (path for path in kernel.glob(f"{module}.ko*"))
        options = "radios=2" if module == SIMULATED else ""
        said(one, f"cat >/tmp/{file.name} && insmod /tmp/{file.name} {options}", file.read_bytes())
    # NetworkManager, where it runs, sees a new radio a moment later.
    manage = "for i in $(seq 60); do nmcli device set wlan1 managed no && break; sleep 1; done"
    said(one, f"! systemctl -q is-active NetworkManager || {manage}")


def _access_point(one: Guest, kind: str, hidden: bool) -> None:
    lines = ["ctrl_interface=/run/point", "ap_scan=2", "network={", '    ssid="Home"', "    mode=2"]
    lines += ["    frequency=2412", *(f"    {line}" for line in POINTS[kind])]
    lines += ["    ignore_broadcast_ssid=1"] * hidden + ["}", ""]
    said(one, "cat >/tmp/point.conf", "\n".join(lines).encode())
    said(one, "! test -e /run/point.pid || kill $(cat /run/point.pid); sleep 1; ip link set wlan1 down")
    said(one, "wpa_supplicant -B -P /run/point.pid -i wlan1 -c /tmp/point.conf")


def _give(one: Guest, release: Release, kind: str) -> str:
    """What the layers give a node for this kind of network, in place of what it was built with.

    Returns the command that lets the node join, again if it gave up before the access point was there.
    """
    files = rendered.files(planned(networks.SECURITIES[kind], NODE, release))
    if release is Release.BULLSEYE:
        path = "/etc/wpa_supplicant/wpa_supplicant.conf"
        said(one, f"cat >{path}", files[path].content)
        said(one, "wpa_cli -i wlan0 reconfigure || systemctl restart dhcpcd")
        return "wpa_cli -i wlan0 reassociate"
    path = "/etc/NetworkManager/system-connections/piimg-wifi.nmconnection"
    said(one, f"cat >{path}", files[path].content)
    said(one, "nmcli connection reload; nmcli device disconnect wlan0; true")
    return "nmcli -w 0 connection up piimg-wifi"


@pytest.mark.parametrize(("radios", "kind", "point", "used"), CASES, indirect=["radios"])
def test_a_node_joins_a_network_of_each_kind(
    radios: tuple[Release, Guest], kind: str, point: str, used: str
) -> None:
    found = _joined(radios, kind, point)
    assert (found.get("wpa_state"), found.get("ssid")) == ("COMPLETED", "Home"), found
    assert found["key_mgmt"] == used


def _joined(radios: tuple[Release, Guest], kind: str, point: str) -> dict[str, str]:
    """The status of the node's radio, once it has joined an access point or two minutes are over."""
    release, one = radios
    _access_point(one, point, "hidden = true" in networks.SECURITIES[kind])
    join = _give(one, release, kind)
    joined = "wpa_cli -i wlan0 status | grep -q wpa_state=COMPLETED"
    wait = f"for i in $(seq 120); do {joined} && break; [ $((i % 30)) != 1 ] || {join}; sleep 1; done"
    status = said(one, f"{wait}; wpa_cli -i wlan0 status || true")
    return dict(line.split("=", 1) for line in status.splitlines() if "=" in line)
