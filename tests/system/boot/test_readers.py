"""The network files of each release, read by the programs of that release: wpa_supplicant, NetworkManager.

They are arm64 programs of the Debian base, run one at a time by qemu-aarch64-static: nothing is booted.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.model import Release
from tests.conftest import SCRIPTS
from tests.integration.overlays import rendered
from tests.integration.overlays.network_files import PROFILES, parsed, planned, unescaped
from tests.integration.overlays.test_networks import MANIFESTS
from tests.support import networks
from tests.system.boot.conftest import CACHE, RELEASES

pytestmark = [pytest.mark.networks, pytest.mark.timeout(900)]

NODES = ("master", "worker1", "worker2", "worker4")
KEY_MGMT = {"wpa2": "0x2", "wpa3": "0x400", "wpa2/wpa3": "0x402", "open": "0x4", "owe": "0x400000"}
"""Bits of WPA_KEY_MGMT (wpa_supplicant, src/common/defs.h)."""


@pytest.fixture(scope="module", params=RELEASES)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the programs of a release and their libraries; its name is that of the release."""
    release: str = request.param
    folder = tmp_path_factory.mktemp("system") / release
    folder.mkdir()
    subprocess.run([SCRIPTS / "make-debian-base", release, folder / "base.img"], check=True)
    (folder / "base.img").unlink()  # the archive that it is made from is wanted
    archives = (CACHE.folder / "debian-base").glob(f"system-{release}-*.tar")
    members = ["./lib", "./usr/sbin/wpa_supplicant", "./usr/bin/nmcli", "./usr/lib/aarch64-linux-gnu"]
    members += ["./usr/lib/ld-linux-aarch64.so.1"]
    newest = max(archives, key=lambda path: path.stat().st_mtime)
    subprocess.run(["tar", "-x", "-f", newest, "-C", folder, *members], check=True)
    yield folder


def ran(system: Path, program: str, *words: str, data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run a program of the release."""
    command = ["qemu-aarch64-static", "-L", str(system), str(system / program), *words]
    return subprocess.run(command, input=data, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("kind", networks.SECURITIES)
def test_wpa_supplicant_reads_each_kind(system: Path, kind: str, tmp_path: Path) -> None:
    """It parses the file, and ends as there is no such interface."""
    if system.name != Release.BULLSEYE:
        pytest.skip("NetworkManager gives wpa_supplicant its settings on this release")
    path = "/etc/wpa_supplicant/wpa_supplicant.conf"
    plan = planned(networks.SECURITIES[kind], "master", Release.BULLSEYE)
    content = rendered.files(plan)[path].content
    file = tmp_path / "wpa_supplicant.conf"
    file.write_bytes(content.replace(b"DIR=/var/run/wpa_supplicant GROUP=netdev", str(tmp_path).encode()))
    words = ("-D", "none", "-i", "nosuch0", "-c", str(file), "-dd")
    output = ran(system, "usr/sbin/wpa_supplicant", *words).stdout.decode()
    assert re.findall(r"^Line \d+:.*", output, re.MULTILINE) == []
    assert re.findall(r"^key_mgmt: (\w+)", output, re.MULTILINE) == [KEY_MGMT[kind]]
    assert "ssid='Home'" in output


def test_networkmanager_reads_every_keyfile(system: Path) -> None:
    """libnm of the release reads, checks and writes each, with the same settings: none is unknown to it."""
    release = Release(system.name)
    if release is Release.BULLSEYE:
        pytest.skip("dhcpcd sets up the network on this release")
    keyfiles = {}
    for text in MANIFESTS.values():
        for node in NODES:
            for path, entry in rendered.files(planned(text, node, release)).items():
                if path.startswith(PROFILES):
                    keyfiles[re.sub(rb"uuid=.*", b"", entry.content)] = entry.content
    assert len(keyfiles) > 20
    for content in keyfiles.values():
        words = ("--offline", "connection", "modify", "connection.autoconnect", "yes")
        done = ran(system, "usr/bin/nmcli", *words, data=content)
        assert done.returncode == 0, (content, done.stderr)
        ours, theirs = parsed(content), parsed(done.stdout)
        for section in ours.sections():
            for key, value in ours.items(section):
                there = unescaped(theirs[section].get(key, ""))
                if key == "address1" and "," not in there:  # from 1.50 on it writes the router apart
                    there += f",{theirs[section]['gateway']}" if "gateway" in theirs[section] else ""
                if key != "ssid":
                    assert there == unescaped(value), (content, key)
