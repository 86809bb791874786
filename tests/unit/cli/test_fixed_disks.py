"""A fixed USB disk is a card only by its exact serial, typed at a terminal, and when nothing uses it."""

from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.cli import fixed_disks
from imagebuilder.cli.fixed_disks import allowing, insist
from imagebuilder.device import inventory
from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import Holding
from imagebuilder.device.identity import NOTHING
from imagebuilder.device.inventory import survey_again
from imagebuilder.device.policy import LARGEST, Reason, kind, refusals
from imagebuilder.errors import UsageError

SSD = Disk(Path("/dev/sdx"), "8:16", 256 * 10**9, "usb", "usb 1-1", model="Portable", serial="S3R1AL")
BACKUP = replace(SSD, node=Path("/dev/sdy"), number="8:32", serial="S3R1AM")
INSIDE = replace(SSD, node=Path("/dev/sda"), driver="ata", serial="S3R1AL")
DESKTOP = Holding("sdx1", "mounted at /media/a/DATA", "/media/a/DATA")


def test_only_the_disk_with_this_serial_is_allowed() -> None:
    assert [one.reason for one in kind(SSD, virtual=False)] == [Reason.FIXED]
    marked = allowing([SSD, BACKUP], "S3R1AL")
    assert [kind(disk, virtual=False) == [] for disk in marked] == [True, False]
    assert allowing([SSD], None) == [SSD]


@pytest.mark.parametrize("serial", ["", "s3r1al", "S3R1A", "S3R1AL ", "S3R1AN"])
def test_any_other_serial_is_refused(serial: str) -> None:
    with pytest.raises(UsageError, match="/dev/sdx: S3R1AL") as caught:
        allowing([SSD], serial)
    assert "lsblk" in caught.value.hint


@pytest.mark.parametrize(
    "disk", [INSIDE, replace(SSD, driver="nvme"), replace(SSD, serial=""), replace(SSD, removable=True)]
)
def test_a_disk_that_is_not_behind_usb_never_is(disk: Disk) -> None:
    with pytest.raises(UsageError):
        allowing([disk], disk.serial or "")
    if not disk.removable:
        assert kind(replace(disk, allowed=True), virtual=False)


def test_two_disks_with_one_serial_are_refused() -> None:
    with pytest.raises(UsageError, match="2 of the named disks"):
        allowing([SSD, replace(BACKUP, serial="S3R1AL")], "S3R1AL")


def test_whatever_uses_it_forbids_it() -> None:
    (allowed,) = allowing([SSD], "S3R1AL")
    assert refusals(allowed, []) == ()
    assert [refusal.reason for refusal in refusals(allowed, [DESKTOP])] == [Reason.IN_USE]
    assert [refusal.reason for refusal in refusals(replace(allowed, size=LARGEST + 1), [])] == [
        Reason.TOO_LARGE
    ]


@pytest.mark.parametrize("typed", ["", "y", "yes", "s3r1al", "S3R1AM"])
def test_the_serial_must_be_typed(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    (allowed,) = allowing([SSD], "S3R1AL")
    monkeypatch.setattr(fixed_disks, "ask", lambda *_, **__: typed)
    with pytest.raises(UsageError, match="nothing was written"):
        insist([allowed], at_terminal=True)
    monkeypatch.setattr(fixed_disks, "ask", lambda *_, **__: "S3R1AL")
    insist([BACKUP, allowed], at_terminal=True)
    with pytest.raises(UsageError, match="without a terminal"):
        insist([allowed], at_terminal=False)


def test_it_stays_allowed_after_the_question_and_only_that_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is looked at again; the mark is the same, and another disk in its place is refused."""
    (allowed,) = allowing([SSD], "S3R1AL")
    shown = inventory.Candidate(allowed, (), NOTHING, ())
    monkeypatch.setattr(inventory, "changed", lambda _: iter(()))
    monkeypatch.setattr(inventory, "disk_at", lambda _: SSD)
    (now,) = survey_again([shown], virtual=False)
    assert now.disk.allowed and Reason.FIXED not in [refusal.reason for refusal in now.refusals]
    monkeypatch.setattr(inventory, "changed", lambda _: iter(["serial was S3R1AL, is S3R1AM"]))
    with pytest.raises(inventory.CardChanged):
        survey_again([shown], virtual=False)
