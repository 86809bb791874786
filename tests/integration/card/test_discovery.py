"""Disks from recorded udev properties and sysfs attributes, and from this machine's own."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.device.discovery import (
    ATTRIBUTES,
    Disk,
    changed,
    disk_at,
    disk_from,
    find_disks,
    slot_order,
)
from imagebuilder.device.policy import LARGEST, refusals
from imagebuilder.errors import UsageError
from tests.integration.card.conftest import CARD_SIZE, MakeCard
from tests.support.checkout import DEVICES

FIXTURES = sorted((DEVICES).glob("*.json"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_recorded_disk_is_understood_and_judged(path: Path) -> None:
    record = json.loads(path.read_text())
    expected = record["expect"]
    reasons = expected.pop("refusals")
    disk = disk_from(record["properties"], record["attributes"])
    for name, value in expected.items():
        found = getattr(disk, name)
        assert (str(found) if isinstance(found, Path) else found) == value, name
    said = refusals(disk, ())
    assert len(said) == len(reasons), said
    assert all(any(reason in str(one) for one in said) for reason in reasons), said


def recorded(name: str) -> Disk:
    record = json.loads((DEVICES / f"{name}.json").read_text())
    return disk_from(record["properties"], record["attributes"])


def test_the_slots_of_one_reader_are_told_apart() -> None:
    slots = [recorded(f"usb-reader-slot{number}").slot for number in range(3)]
    assert slots == ["usb 1-1.4", "usb 1-1.4 #1", "usb 1-1.4 #2"]


def test_slots_are_ordered_as_people_count() -> None:
    card = recorded("usb-reader")
    named = [
        Disk(card.node, card.number, 1, "usb", slot) for slot in ("usb 1-10", "usb 1-2", "mmc0", "usb 1-2 #1")
    ]
    assert [one.slot for one in sorted(named, key=slot_order)] == [
        "mmc0",
        "usb 1-2",
        "usb 1-2 #1",
        "usb 1-10",
    ]


@pytest.mark.parametrize(("more", "fits"), [(0, True), (512, False)])
def test_a_card_of_just_the_right_size_is_taken(more: int, fits: bool) -> None:
    disk = recorded("usb-reader")
    assert (refusals(disk, (), disk.size + more) == ()) is fits


@pytest.mark.parametrize(("size", "fits"), [(LARGEST, True), (LARGEST + 512, False)])
def test_the_largest_card_is_2_tb(size: int, fits: bool) -> None:
    disk = recorded("usb-reader")
    large = Disk(disk.node, disk.number, size, "usb", disk.slot, removable=True)
    assert (refusals(large, ()) == ()) is fits


TEXTS = st.text(st.characters(codec="utf-8"), max_size=80)
PROPERTIES = (
    "DEVNAME",
    "DEVPATH",
    "MAJOR",
    "MINOR",
    "DISKSEQ",
    "ID_MODEL",
    "ID_VENDOR",
    "ID_PATH",
    "ID_SERIAL",
)


@given(
    st.dictionaries(st.sampled_from(PROPERTIES), TEXTS), st.dictionaries(st.sampled_from(ATTRIBUTES), TEXTS)
)
def test_no_properties_make_it_fail_otherwise_than_agreed(
    properties: dict[str, str], attributes: dict[str, str]
) -> None:
    try:
        disk = disk_from(properties, attributes)
    except (KeyError, ValueError):
        return
    assert disk.model.isprintable()
    assert disk.serial.isprintable()


@given(TEXTS, TEXTS)
def test_a_device_cannot_write_to_the_terminal(vendor: str, serial: str) -> None:
    record = json.loads((DEVICES / "usb-reader.json").read_text())
    hostile = {**record["properties"], "ID_VENDOR": f"\x1b[2J{vendor}", "ID_SERIAL_SHORT": f"\r\n{serial}"}
    disk = disk_from(hostile, record["attributes"])
    assert disk.model.isprintable()
    assert disk.serial.isprintable()


def test_a_virtual_card_is_found_only_when_asked_for(card: Disk) -> None:
    assert card in find_disks(virtual=True)
    assert all(find_disk.driver != "loop" for find_disk in find_disks())
    assert (card.size, card.driver, card.direct) == (CARD_SIZE, "loop", True)


def test_any_path_to_a_card_will_do(card: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "by-id").symlink_to(card.node)
    (tmp_path / "twice").symlink_to("by-id")
    monkeypatch.chdir(tmp_path)
    assert disk_at(tmp_path / "by-id") == disk_at(Path("twice")) == card


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "is a regular file"),
        ("folder", "is a directory"),
        ("/dev/null", "is a character device"),
        ("nothing", "No such file"),
        ("endless", "not a path|Too many levels"),
        ("a\0b", "not a path"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_no_disk_is_reported(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0" * 512)
    (tmp_path / "folder").mkdir()
    (tmp_path / "endless").symlink_to("endless")
    with pytest.raises(UsageError, match=reason):
        disk_at(tmp_path / name)


def test_another_medium_in_the_slot_is_noticed(make_card: MakeCard, tmp_path: Path) -> None:
    before = make_card()
    assert list(changed(before)) == []
    stranger = Disk(**{**vars(before), "diskseq": (before.diskseq or 1) - 1})
    assert any("medium" in one for one in changed(stranger))
    gone = Disk(**{**vars(before), "number": "7:4095", "node": tmp_path / "loop4095"})
    assert list(changed(gone)) == ["it was removed"]


def test_a_card_whose_file_is_removed_or_cannot_be_asked_any_more_is_the_same(card: Disk) -> None:
    """A FUSE file whose server was killed looks removed: its slot must go on saying what became of it."""
    Path(card.backing).unlink()
    attached = Path(f"/sys/block/{card.name}/loop/backing_file").read_text()
    assert attached.endswith(" (deleted)\n")
    assert list(changed(card)) == []
    assert disk_at(card.node).identity == card.identity
