"""Six USB cards at once, and what others say of them: e2fsck, fsck.fat, bmaptool, the guest's own kernel."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.system.files import copy_sparse
from tests.support import judge
from tests.system.station.disk import CLUSTER
from tests.system.station.guest import Card, Guest, Reader, seat

pytestmark = [pytest.mark.timeout(1800, func_only=True), pytest.mark.station]  # the guest takes its own time

NODES = ("master", "worker1", "worker2", "worker3", "worker4", "worker5")
RATE = 20_000_000  # bytes a second; more than emulation gives when six are written at once

# Both partitions of card and node image, mounted by the kernel, which read the tables too.
COMPARE = """
until blockdev --rereadpt {node}; do sleep 0.5; done; udevadm settle
image=$(losetup --find --show --read-only --partscan {image}); udevadm settle; mkdir -p /mnt/card /mnt/image
for part in 1 2; do
    mount -o ro {node}$part /mnt/card; mount -o ro ${{image}}p$part /mnt/image
    findmnt -no FSTYPE /mnt/card; diff -r --no-dereference /mnt/card /mnt/image
    (cd /mnt/card && find . -printf '%P %M %U %G %s %T@ %l\\n' | sort) >/tmp/card.list
    (cd /mnt/image && find . -printf '%P %M %U %G %s %T@ %l\\n' | sort) >/tmp/image.list
    cmp /tmp/card.list /tmp/image.list; wc -l </tmp/card.list; umount /mnt/card /mnt/image
done
losetup -d $image
"""


def report(guest: Guest, folder: str = CLUSTER) -> dict[str, dict[str, Any]]:
    """The saved report, by node."""
    found = json.loads(guest.good(f"cat {folder}/build/flash-report.json"))["cards"]
    return {one["node"]: one for one in found}


def judged(guest: Guest, card: Card, node: str, tmp_path: Path) -> None:
    """What is on a card is what was built, say programs that are no part of piimg."""
    judge.check_file_systems(card.file, tmp_path)
    built = guest.disks.built / "build"
    copy = tmp_path / f"{card.file.name}.img"  # bmaptool wants a file as long as its map says
    copy_sparse(card.file, copy)
    os.truncate(copy, (built / f"{node}.img").stat().st_size)
    judge.said("bmaptool", "-q", "copy", "--bmap", built / f"{node}.bmap", copy, "/dev/null")
    copy.unlink()


def kernel_agrees(guest: Guest, reader: Reader, node: str) -> None:
    """What the guest's own vfat and ext4 read from a card is what they read from the node image."""
    said = guest.good(COMPARE.format(image=f"{CLUSTER}/build/{node}.img", node=reader.node)).split()
    assert said[0] == "vfat" and said[2] == "ext4" and int(said[1]) > 10 and int(said[3]) > 300, said


def test_six_at_once(guest: Guest, tmp_path: Path) -> None:
    cards = [guest.card() for _ in NODES]
    readers = [guest.plug(card, 3 + at, serial=f"R{at}", rate=RATE) for at, card in enumerate(cards)]
    with seat(guest, "flash", "--all") as one:
        said = one.see("Erase these 6 cards? [y/N]")
        for reader, node in zip(readers, NODES, strict=True):
            assert any(
                reader.node in line.split() and line.split()[-1] == node for line in said.splitlines()
            ), said
        one.type("y\n")
        status, said = one.end()
    assert status == 0, said
    found = report(guest)
    for reader, card, node in zip(readers, cards, NODES, strict=True):
        mine = found[node]
        assert (mine["verdict"], mine["device"], mine["slot"]) == ("good", reader.node, reader.slot)
        assert mine["written"] > 0 and mine["read_back"] == mine["written"] and mine["retries"] == 0
        judged(guest, card, node, tmp_path)
        guest.good(
            f"udevadm wait --settle --timeout=600 {reader.node}1 {reader.node}2"
        )  # nobody asked for it
        kernel_agrees(guest, reader, node)
    # Once more: all of it is there, nothing is written, and each card is powered down, and that card alone.
    good = [*map(str, (reader.node for reader in readers[:2]))]
    done = guest.piimg("flash", "--all", "--yes", "--eject", *(reader.node for reader in readers))
    assert done.returncode == 0, done.stderr
    assert {one["written"] for one in report(guest).values()} == {0}
    assert done.stderr.count(" is powered down: take it out") == len(readers), done.stderr
    sizes = guest.good(f"cat {' '.join(f'/sys/class/block/{one[5:]}/size' for one in good)}").split()
    assert sizes == ["0", "0"]


def test_a_card_is_powered_down_and_its_neighbour_is_not(guest: Guest, tmp_path: Path) -> None:
    """In a reader with several slots: the one that was written, unless its neighbour is in use."""
    card, other = guest.card(), guest.card()
    mine, neighbour = guest.insert(0, card), guest.insert(1, other)
    guest.good(f"mkfs.vfat -I {neighbour.node}; mkdir -p /mnt/other; mount {neighbour.node} /mnt/other")
    words = ["flash", mine.node, "--node", "worker1", "--yes", "--eject"]
    done = guest.piimg(*words)
    assert done.returncode == 0, done.stderr
    assert f"{neighbour.node} is in the same reader" in done.stderr
    guest.good("umount /mnt/other")
    done = guest.piimg(*words)
    assert (done.returncode, "not powered down" in done.stderr) == (0, False), done.stderr
    sizes = guest.good(
        f"cat /sys/class/block/{mine.node[5:]}/size /sys/class/block/{neighbour.node[5:]}/size"
    )
    assert sizes.split() == ["0", str(other.file.stat().st_size // 512)]
    judged(guest, card, "worker1", tmp_path)
