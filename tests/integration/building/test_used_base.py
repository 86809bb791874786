"""A base image made from a card that was in use: what would set up the node's network is left out."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.building.test_hostile import debugfs_write
from tests.support import judge
from tests.support.cluster import Place
from tests.unit.image.test_netplan import BOMB, CLOUD_INIT, NM

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root"),
    pytest.mark.usefixtures("nothing_held"),
]

USED = {
    "50-cloud-init.yaml": CLOUD_INIT,
    "90-NM-626dd384-8b3d-3690-9511-192b2c79b3fd.yaml": NM.format(kind="ethernets", match="{}", more=""),
    "20-usb.yaml": "network: {ethernets: {eth1: {dhcp4: yes}}}\n",
    "30-bomb.yaml": BOMB,
    "40-empty.yaml": "",
    "README": "network: {ethernets: {eth0: {dhcp4: yes}}}\n",
}
RADIO = "90-NM-726dd384-8b3d-3690-9511-192b2c79b3fd.yaml"


@pytest.fixture
def base(specimen: Callable[[str], Path], tmp_path: Path) -> Path:
    """A Trixie specimen with files in /etc/netplan, some of them hostile."""
    copy = tmp_path / "base.img"
    judge.said("cp", "--sparse=always", "--no-preserve=mode", specimen("trixie"), copy)
    outside = tmp_path / "outside.yaml"
    outside.write_text("network: {ethernets: {eth0: {dhcp4: yes}}}\n")
    radio = NM.format(kind="wifis", match="{}", more='access-points: {"a": {password: "12345678"}}')
    commands = []
    for number, (name, text) in enumerate({**USED, RADIO: radio}.items()):
        source = tmp_path / f"source{number}"
        source.write_text(text)
        commands.append(f"write {source} /etc/netplan/{name}")
    commands += [f"symlink /etc/netplan/60-out.yaml {outside}", "cd /etc/netplan", "mknod 70-pipe.yaml p"]
    commands += ["mkdir 80-folder.yaml", "symlink 81-loop.yaml 81-loop.yaml"]
    debugfs_write(copy, *commands)
    return copy


def netplan_of(image: Path) -> set[str]:
    listed = judge.debugfs(image, "ls -p /etc/netplan").decode().splitlines()
    return {line.split("/")[5] for line in listed if line.count("/") > 5} - {".", ".."}


def test_what_sets_up_the_nodes_interfaces_is_left_out(base: Path, place: Place, tmp_path: Path) -> None:
    done = place.run("build", "--node", "worker1", "--node", "master", "--base", base)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    left = {"20-usb.yaml", "40-empty.yaml", "README", "60-out.yaml"}
    assert netplan_of(place.build / "worker1.img") == left | {RADIO}
    assert netplan_of(place.build / "master.img") == left  # it has Wi-Fi
    reported = [line for line in done.stderr.splitlines() if line.startswith("worker1: /etc/netplan/")]
    for name, why in {
        "50-cloud-init.yaml": "it would set up eth0",
        "90-NM-626dd384-8b3d-3690-9511-192b2c79b3fd.yaml": "it would set up eth0",
        "30-bomb.yaml": "it has aliases, so it may set up eth0",
        "70-pipe.yaml": "it cannot be read, so it may set up eth0",
        "80-folder.yaml": "it cannot be read, so it may set up eth0",
        "81-loop.yaml": "it cannot be read, so it may set up eth0",
    }.items():
        assert f"worker1: /etc/netplan/{name} of the base image is removed: {why}" in reported
    assert len(reported) == 6
    assert (tmp_path / "outside.yaml").exists()
    for node in ("worker1", "master"):
        judge.check_entries(place.build / f"{node}.img", place.entries(node, "trixie"))
        judge.check_file_systems(place.build / f"{node}.img", tmp_path)


def test_an_own_layers_netplan_file_stays(base: Path, place: Place) -> None:
    """What a layer puts there is meant: even by a name that sorts before all others."""
    own = place.folder / "overlays/node-worker1/root/etc/netplan"
    own.mkdir(parents=True)
    (own / "#mine.yaml").write_text(CLOUD_INIT)
    place.good("build", "--node", "worker1", "--base", base)
    assert "#mine.yaml" in netplan_of(place.build / "worker1.img")


def test_more_files_than_anybody_has_are_refused(specimen: Callable[[str], Path], place: Place) -> None:
    base = place.folder / "many.img"
    judge.said("cp", "--sparse=always", "--no-preserve=mode", specimen("trixie"), base)
    debugfs_write(base, "cd /etc/netplan", *(f"mknod {number}.yaml p" for number in range(300)))
    assert "more than 256 files" in place.refused(1, "build", "--node", "worker1", "--base", base)
    assert not list(place.build.glob("worker1.*"))


def test_plan_says_so_before(place: Place) -> None:
    said = place.good("plan", "--full", "--release", "trixie", "--node", "master")
    (line,) = [line for line in said.splitlines() if "/etc/netplan/" in line]
    assert line.endswith("root/etc/netplan/*.yaml (of the base image: removed if it sets up eth0, wlan0)")
    said = place.good("plan", "--full", "--release", "bookworm", "--node", "master")
    assert "netplan" not in said
