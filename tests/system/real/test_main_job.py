"""From one manifest to six verified cards, on a complete Debian system made from Debian's packages."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagebuilder.system import loop
from tests.conftest import SCRIPTS, releases
from tests.support import judge
from tests.support.cluster import Place, make_place

pytestmark = pytest.mark.real

CARD = 31914983424  # bytes, what a SanDisk 32 GB card has
NODES = ("master", "worker1", "worker2", "worker3", "worker4", "worker5")


@pytest.fixture
def cards(tmp_path: Path) -> Iterator[list[Path]]:
    """Six virtual cards that hold other data: their first 64 MiB are 0xFF, as after another use."""
    with ExitStack() as stack:
        devices = []
        for number in range(len(NODES)):
            file = tmp_path / f"card{number}"
            with file.open("wb") as stream:
                for _ in range(64):
                    stream.write(b"\xff" * (1 << 20))
                stream.truncate(CARD)
            devices.append(stack.enter_context(loop.attached(file, direct_io=True)))
        yield devices


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("release", releases())
def test_the_main_job(release: str, tmp_path: Path, cards: list[Path]) -> None:
    base = tmp_path / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", release, base], check=True)
    place = make_place(tmp_path, tmp_path / "cache")
    place.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    place.good("build", "--all", "--base", base)
    report = tmp_path / "report.json"
    place.good("flash", "--all", "--base", base, "--virtual", "--yes", "--report", report, *cards)
    verdicts = {load["node"]: load for load in json.loads(report.read_text())["cards"]}
    assert set(verdicts) == set(NODES)
    for node in NODES:
        assert verdicts[node]["verdict"] == "good"
        check_card(place, node, release, Path(verdicts[node]["device"]), tmp_path)
    assert {verdict["device"] for verdict in verdicts.values()} == {str(card) for card in cards}


def check_card(place: Place, node: str, release: str, card: Path, folder: Path) -> None:
    """What is on the card, as read by e2fsck, fsck.fat, debugfs, mtools and bmaptool."""
    judge.check_file_systems(card, folder)
    checked = judge.check_entries(card, place.entries(node, release))
    assert checked > 30
    judge.said("bmaptool", "-q", "copy", "--bmap", place.build / f"{node}.bmap", card, "/dev/null")
    assert judge.on_root(card, "/etc/machine-id") == judge.on_root(
        place.build / f"{node}.img", "/etc/machine-id"
    )
    partuuid = f"PARTUUID={judge.disk_id(card)}-02".encode()
    assert partuuid in judge.on_root(card, "/etc/fstab") and partuuid in judge.on_boot(card, "/cmdline.txt")
