"""Which cards share a USB 2 link: from recorded trees of USB devices, and from any tree at all."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.device.discovery import Disk, UsbDevice, disk_from, find_disks
from imagebuilder.device.usb import order_for_jobs, same_reader, seconds_through, shared_links
from tests.support.checkout import DEVICES

HUBS = sorted((DEVICES / "hubs").glob("*.json"))


def recorded(path: Path) -> tuple[list[Disk], dict[str, object]]:
    record = json.loads(path.read_text())
    return [disk_from(one["properties"], one["attributes"]) for one in record["disks"]], record


@pytest.mark.parametrize("path", HUBS, ids=lambda path: path.stem)
def test_the_cards_that_share_a_link_are_known(path: Path) -> None:
    disks, record = recorded(path)
    found = [
        {"at": shared_link.at, "what": shared_link.what, "disks": [disk.name for disk in shared_link.disks]}
        for shared_link in shared_links(disks)
    ]
    assert found == record["shared"]
    assert [disk.name for disk in order_for_jobs(disks)] == record["order"]


def test_every_recorded_tree_is_tried() -> None:
    assert len(HUBS) == 4


def test_the_way_to_a_reader_is_read_with_its_speeds() -> None:
    disks, _ = recorded(DEVICES / "hubs" / "usb2-hub.json")
    assert disks[4].hops == (
        UsbDevice("usb1", 480),
        UsbDevice("1-2", 480),
        UsbDevice("1-2.5", 480),
        UsbDevice("1-2.5.1", 480),
    )
    assert disks[4].slot == "usb 1-2.5.1"


def test_a_disk_without_usb_is_on_no_bus() -> None:
    for disk in find_disks():
        if disk.driver != "usb":
            assert disk.hops == ()
            assert not same_reader(disk, disk)


def test_the_slots_of_one_reader_belong_together() -> None:
    disks, _ = recorded(DEVICES / "hubs" / "two-slots.json")
    together = [
        (one.name, other.name) for one, other in itertools.permutations(disks, 2) if same_reader(one, other)
    ]
    assert together == [("sdb", "sdc"), ("sdc", "sdb")]


def test_the_time_through_a_link() -> None:
    assert seconds_through(6 * 2 * 1_680_000_000) == (504.0, 806.4)


def test_speeds_that_make_no_sense_are_not_known() -> None:
    record = json.loads((HUBS[0].parent / "two-slots.json").read_text())["disks"][0]
    for reported, speed in (
        ("1.5", 1),
        ("480", 480),
        ("20000", 20000),
        ("", 0),
        ("fast", 0),
        ("-1", 0),
        ("9" * 9, 0),
    ):
        record["attributes"]["1-4/speed"] = reported
        assert disk_from(record["properties"], record["attributes"]).hops[-1] == UsbDevice("1-4", speed)


TREES = st.lists(
    st.tuples(
        st.integers(1, 4),  # bus
        st.lists(st.integers(1, 3), max_size=4),  # ports on the way
        st.sampled_from((480, 5000)),
    ),
    max_size=14,
)


def planted(tree: list[tuple[int, list[int], int]]) -> list[Disk]:
    """A disk for each leaf; a bus has one speed, whatever the tree says of it first."""
    speeds: dict[int, int] = {}
    disks = []
    for number, (bus, ports, speed) in enumerate(tree):
        speeds.setdefault(bus, speed)
        names = [f"usb{bus}", *(f"{bus}-{'.'.join(map(str, ports[:n]))}" for n in range(1, len(ports) + 1))]
        hops = tuple(UsbDevice(name, speeds[bus]) for name in names) if ports else ()
        disks.append(Disk(Path(f"/dev/sd{number}"), f"8:{number}", 1, "usb", f"slot{number}", hops=hops))
    return disks


@given(TREES)
def test_all_are_started_and_no_bus_waits_while_another_has_two(
    tree: list[tuple[int, list[int], int]],
) -> None:
    disks = planted(tree)
    order = order_for_jobs(disks)
    assert sorted(order, key=str) == sorted(disks, key=str)
    left = Counter(_bus(disk) for disk in disks)
    begun: Counter[str] = Counter()
    for disk in order:
        waiting = [bus for bus, count in left.items() if count]
        assert begun[_bus(disk)] == min(begun[bus] for bus in waiting)
        begun[_bus(disk)] += 1
        left[_bus(disk)] -= 1


def _bus(disk: Disk) -> str:
    return disk.hops[0].name if disk.hops else disk.number


@given(TREES)
def test_a_card_is_in_one_group_at_most_and_only_behind_usb_2(tree: list[tuple[int, list[int], int]]) -> None:
    disks = planted(tree)
    groups = shared_links(disks)
    grouped = [disk.number for group in groups for disk in group.disks]
    assert len(grouped) == len(set(grouped))
    slow = Counter(_bus(disk) for disk in disks if disk.hops and disk.hops[0].speed == 480)
    assert sorted(len(group.disks) for group in groups) == sorted(n for n in slow.values() if n > 1)
    for one in groups:
        assert all(one.at in [hop.name for hop in disk.hops] for disk in one.disks)


def test_a_disk_named_twice_is_kept_twice() -> None:
    """Whoever runs the jobs refuses it: it must not get lost before."""
    disk = planted([(1, [1], 480)])[0]
    assert order_for_jobs([disk, disk]) == [disk, disk]
    nowhere = Disk(Path("/dev/loop0"), "7:0", 1, "loop", "loop0")
    assert order_for_jobs([nowhere, nowhere]) == [nowhere, nowhere]
