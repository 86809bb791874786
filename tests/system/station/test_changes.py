"""Cards that change while piimg runs: swapped as asked, pulled at half and back again, exchanged unasked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.station.disk import CLUSTER
from tests.system.station.guest import Guest, Reader, seat
from tests.system.station.test_flash import judged, kernel_agrees, report

pytestmark = [pytest.mark.timeout(1800, func_only=True), pytest.mark.station]  # the guest takes its own time

MIB = 1 << 20
TWO = "/srv/two"
SLOW = 4_000_000  # bytes a second


@pytest.fixture
def two(guest: Guest) -> Iterator[str]:
    """A cluster folder with two nodes, master and worker1, both built."""
    guest.good(
        f"mkdir -p {TWO}; cd {TWO}; ln -sfn {CLUSTER}/overlays overlays; mkdir -p build\n"
        f"for node in master worker1; do ln -sf {CLUSTER}/build/$node.* build/; done\n"
        f"awk '/^\\[\\[node\\]\\]/ {{ count += 1 }} count < 3' {CLUSTER}/cluster.toml >cluster.toml"
    )
    yield TWO
    guest.good(f"rm -rf {TWO}")


def test_one_slot_for_all(guest: Guest, two: str, tmp_path: Path) -> None:
    """The reader stays, and its cards are changed as asked; one too small, or done, is not taken."""
    first, second, small = guest.card(), guest.card(), guest.card(512 * MIB)
    slot = guest.insert(2, first)
    with seat(guest, "flash", "--all", folder=two) as one:
        one.see("Erase this card? [y/N]")
        one.type("y\n")
        one.see("Nodes without a good card: worker1")
        guest.take(2)
        guest.insert(2, small)
        one.window.settle(8)
        guest.take(2)
        guest.insert(2, first)
        one.see(f"{slot.node} carries master, which is done: take it out")
        guest.take(2)
        assert one.see("[y/N]").count("[y/N]") == 1
        guest.insert(2, second)
        one.window.wait_for(lambda lines: sum("[y/N]" in line for line in one.window.everything) == 2, 600)
        one.type("y\n")
        status, said = one.end()
    assert status == 0, said
    assert not any(small.start())
    for node, card in (("master", first), ("worker1", second)):
        judged(guest, card, node, tmp_path)
    assert {node: one["verdict"] for node, one in report(guest, two).items()} == {
        "master": "good",
        "worker1": "good",
    }


def test_one_reader_for_all(guest: Guest, two: str, tmp_path: Path) -> None:
    """The reader is pulled out and plugged in with each card: its device goes and comes."""
    first, second = guest.card(), guest.card()
    reader = guest.plug(first, 5, serial="ONE")
    with seat(guest, "flash", "--all", folder=two) as one:
        one.see("Erase this card? [y/N]")
        one.type("y\n")
        one.see("Nodes without a good card: worker1")
        guest.pull(reader)
        reader = guest.plug(second, 5, serial="ONE")
        one.window.wait_for(lambda lines: sum("[y/N]" in line for line in one.window.everything) == 2, 600)
        one.type("y\n")
        status, said = one.end()
    assert status == 0, said
    judged(guest, first, "master", tmp_path)
    judged(guest, second, "worker1", tmp_path)
    kernel_agrees(guest, reader, "worker1")


def test_one_that_is_pulled_at_half_fails_alone_and_is_taken_up_again(
    guest: Guest, two: str, tmp_path: Path
) -> None:
    kept, pulled = guest.card(), guest.card()
    stays = guest.plug(kept, 3, serial="STAYS", rate=SLOW)
    goes = guest.plug(pulled, 4, serial="GOES", rate=SLOW)
    with seat(guest, "flash", "--all", folder=two) as one:
        one.see("Erase these 2 cards? [y/N]")
        one.type("y\n")
        one.see_part("worker1", 50)
        guest.pull(goes)
        back = guest.plug(pulled, 4, serial="GOES")  # while the other is still being written
        assert back.node != stays.node
        one.see("Nodes without a good card: worker1", seconds=900)
        said = one.see("Erase this card? [y/N]", seconds=900)
        assert f"{back.node} " in said
        one.type("y\n")
        status, said = one.end()
    assert status == 0, said
    assert f"{goes.node} " in said and "failed" in said
    found = report(guest, two)
    assert (found["master"]["verdict"], found["master"]["device"]) == ("good", stays.node)
    mine = found["worker1"]
    assert (mine["verdict"], mine["device"], mine["mode"]) == ("good", back.node, "differences")
    assert mine["skipped"] > 0
    for node, card in (("master", kept), ("worker1", pulled)):
        judged(guest, card, node, tmp_path)


@pytest.mark.parametrize(
    "alike",
    [pytest.param(False, id="serials", marks=pytest.mark.station_short), pytest.param(True, id="alike")],
)
def test_two_that_swap_names_behind_the_question(guest: Guest, alike: bool) -> None:
    """Between question and answer each takes the other's name; if they are alike, the other's port too."""
    first, second = guest.card(), guest.card()
    one_is, other_is = ("", "") if alike else ("FIRST", "SECOND")
    reader = guest.plug(first, 3, serial=one_is)
    other = guest.plug(second, 4, serial=other_is)
    with seat(guest, "flash", reader.node, "--node", "worker1") as one:
        one.see("Erase this card? [y/N]")
        guest.pull(reader)
        guest.pull(other)
        swapped = guest.plug(second, 3 if alike else 4, serial=one_is if alike else other_is)
        again = guest.plug(first, 4 if alike else 3, serial=other_is if alike else one_is)
        assert (swapped.node, again.node) == (reader.node, other.node)
        one.type("y\n")
        status, said = one.end()
    assert status != 0 and "is no longer the selected card" in said, said
    assert not any(first.start()) and not any(second.start())


def partitioned(guest: Guest, reader: Reader) -> None:
    """Give a card what a used one has: a FAT and an ext4 partition."""
    guest.good(
        f"printf 'start=1MiB,size=64MiB,type=c\\nsize=64MiB\\n' | sfdisk -q {reader.node}; udevadm settle\n"
        f"mkfs.vfat -n CAMERA {reader.node}1; mkfs.ext4 -q -L photos {reader.node}2; udevadm settle"
    )


def test_what_a_desktop_mounted_is_unmounted(guest: Guest, tmp_path: Path) -> None:
    """By udisks2, as a desktop has it do. What somebody mounted elsewhere by hand is not."""
    card = guest.card()
    reader = guest.plug(card, 3, serial="CAMERA")
    partitioned(guest, reader)
    for part in (1, 2):
        known = f"until udisksctl info -b {reader.node}{part}; do sleep 0.5; done"
        guest.good(f"{known}; udisksctl mount --no-user-interaction -b {reader.node}{part}")
    points = guest.good(f"findmnt -no TARGET {reader.node}1; findmnt -no TARGET {reader.node}2").split()
    assert len(points) == 2 and all(point.startswith(("/media/", "/run/media/")) for point in points)
    with seat(guest, "flash", reader.node, "--node", "worker2") as one:
        one.see("unmounted first: ", *points)
        one.see("Erase this card? [y/N]")
        guest.good(f"mountpoint {points[0]} && mountpoint {points[1]}")  # nothing was done yet
        one.type("y\n")
        status, said = one.end()
    assert status == 0, said
    judged(guest, card, "worker2", tmp_path)
    kernel_agrees(guest, reader, "worker2")
    # And now by hand.
    guest.good(f"mkdir -p /mnt/mine; mount -o ro {reader.node}1 /mnt/mine")
    done = guest.piimg("flash", reader.node, "--node", "worker2", "--yes", "--full")
    assert done.returncode == 2 and f"{reader.node[5:]}1 is mounted at /mnt/mine" in done.stderr, done.stderr
    guest.good("umount /mnt/mine")
    judged(guest, card, "worker2", tmp_path)
