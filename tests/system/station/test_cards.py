"""What `piimg cards` says of real readers: USB sticks, a reader with several slots, an SD slot."""

import json
from typing import Any

import pytest

from tests.system.station.guest import GIB, SLOTS, Guest, Reader

pytestmark = [pytest.mark.timeout(1800, func_only=True), pytest.mark.station]  # the guest takes its own time

MIB = 1 << 20


def cards(guest: Guest) -> dict[str, dict[str, Any]]:
    """What `piimg cards --json` says, by slot."""
    done = guest.piimg("cards", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["cards"]
    assert len({one["slot"] for one in found}) == len(found)
    return {one["slot"]: one for one in found}


def reported(one: dict[str, Any]) -> tuple[str, int, list[str]]:
    return one["device"], one["size"], one["refusals"]


EMPTY = ["there is no medium in it"]


@pytest.mark.station_short
def test_each_state(guest: Guest) -> None:
    slots = [guest.slot(number) for number in range(SLOTS)]
    before = cards(guest)
    for slot in slots:
        assert reported(before[slot.slot]) == (slot.node, 0, EMPTY)
        assert (before[slot.slot]["driver"], before[slot.slot]["removable"]) == ("usb", True)
    fixed = {slot: one["refusals"] for slot, one in before.items() if slot not in {one.slot for one in slots}}
    assert len(fixed) == 2
    own, cluster = (
        next(one for one in before.values() if one["device"] == name) for name in ("/dev/sda", "/dev/vda")
    )
    assert own["refusals"] == ["it is not removable (ata disk)", "this system runs from it: it holds /"]
    assert cluster["refusals"] == ["it is not removable (virtio disk)", "vda is mounted at /srv/piimg"]

    readers = [guest.plug(guest.card(GIB + at * MIB), 3 + at, serial=f"R{at}") for at in range(6)]
    small = guest.insert(1, guest.card(64 * MIB))
    slid = guest.plug(guest.card(), 9, serial="SLID", read_only=True)
    sd = guest.insert_sd(guest.card())
    full = cards(guest)
    assert set(full) == {*before, *(one.slot for one in (*readers, slid, sd))}
    for at, reader in enumerate(readers):
        one = full[reader.slot]
        assert reported(one) == (reader.node, GIB + at * MIB, [])
        assert (one["serial"], one["model"], one["writable"]) == (f"R{at}", "QEMU HARDDISK", True)
    assert reported(full[small.slot]) == (small.node, 64 * MIB, [])
    assert reported(full[slid.slot]) == (slid.node, GIB, ["it is write-protected"])
    assert full[slid.slot]["read_only"]
    assert reported(full[sd.slot]) == ("/dev/mmcblk0", GIB, [])
    assert (full[sd.slot]["driver"], full[sd.slot]["serial"]) == ("mmc", "0xdeadbeef")
    for number in (0, 2, 3):
        assert reported(full[slots[number].slot]) == (slots[number].node, 0, EMPTY)
    table = guest.piimg("cards").stdout
    for reader in (*readers, small, sd):
        assert row(table, reader).endswith(" yes"), table
    for reader in (slid, slots[0]):
        assert row(table, reader).endswith(" no"), table
    assert f"{slid.node}: it is write-protected" in table

    guest.pull(readers[2])
    guest.take(1)
    guest.take_sd()
    after = cards(guest)
    assert set(after) == set(full) - {readers[2].slot, sd.slot}
    assert reported(after[small.slot]) == (small.node, 0, EMPTY)


def row(table: str, reader: Reader) -> str:
    """The line of the table for a slot."""
    [line] = [
        line
        for line in table.splitlines()
        if line.startswith(f"{reader.slot} ") and reader.node in line.split()
    ]
    return line.rstrip()
