"""What the history says of a card before it is used again."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from imagebuilder.card.report import Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.history.store import (
    Ended,
    Run,
    begun,
    runs_of,
    shown,
)
from imagebuilder.history.warnings import Past, past, was_good_with
from tests.unit.history.making import READER, SLOT, WHEN, run_on


def warnings(disk: Disk, *verdicts: Verdict | None, now: Disk | None = None) -> tuple[str, ...]:
    events = [one for n, verdict in enumerate(verdicts) for one in run_on(disk, str(n), verdict, 4096)]
    return past(runs_of(events, now or disk), now or disk).warnings


def test_what_is_said_of_a_card_with_a_serial_of_its_own() -> None:
    when = shown(WHEN)
    assert SLOT.sd
    assert warnings(SLOT) == warnings(SLOT, Verdict.GOOD) == warnings(SLOT, Verdict.UNVERIFIED) == ()
    assert warnings(SLOT, Verdict.FAILED, Verdict.FAILED, Verdict.GOOD) == (
        f"this card failed on {when} at byte 4096 (2 times in all); good since",
    )
    assert warnings(SLOT, Verdict.FAILED, *[Verdict.GOOD] * 9)[0].endswith("good since, 9 times")
    assert warnings(SLOT, Verdict.GOOD, None) == (f"a run on this card was interrupted on {when}",)
    assert warnings(SLOT, Verdict.INTERRUPTED) == (f"a run on this card was interrupted on {when}",)
    assert warnings(SLOT, Verdict.INTERRUPTED, Verdict.GOOD) == warnings(SLOT, None, Verdict.GOOD) == ()
    other = replace(SLOT, serial="0x00000001")
    assert warnings(SLOT, Verdict.BAD, now=other) == ()
    assert warnings(SLOT, Verdict.BAD, now=replace(SLOT, slot="mmc7", node=Path("/dev/mmcblk7"))) != ()


def test_behind_a_reader_it_is_not_claimed_to_be_the_same_card() -> None:
    said = warnings(READER, Verdict.BAD)
    where = "of this size in this slot of the reader"
    assert said == (f"the last card read back {where} was bad on {shown(WHEN)} at byte 4096",)
    assert warnings(READER, Verdict.BAD, *[Verdict.GOOD] * 4) == (
        f"a card {where} was bad on {shown(WHEN)} at byte 4096; 4 good runs there since",
    )
    assert warnings(READER, Verdict.BAD, *[Verdict.GOOD] * 5) == ()
    assert warnings(READER, Verdict.BAD, now=replace(READER, size=READER.size * 2)) == ()
    assert warnings(READER, Verdict.BAD, now=replace(READER, slot="usb 2-4")) == ()
    assert warnings(READER, Verdict.BAD, now=replace(READER, serial="other")) == ()
    assert warnings(READER, Verdict.BAD, now=replace(READER, node=Path("/dev/sdx"), diskseq=99)) == said


def of(disk: Disk, *verdicts: Verdict | None) -> Past:
    events = [one for n, verdict in enumerate(verdicts) for one in run_on(disk, str(n), verdict, 4096)]
    return past(runs_of(events, disk), disk)


def test_a_card_that_was_bad_once_stays_so() -> None:
    once = of(SLOT, Verdict.BAD)
    assert (once.bad, once.same) == (f"this card was bad on {shown(WHEN)} at byte 4096", True)
    for later in ([Verdict.GOOD], [Verdict.GOOD] * 9, [Verdict.UNVERIFIED, None], [Verdict.FAILED]):
        assert of(SLOT, Verdict.BAD, *later).bad == once.bad
        assert not any("good" in text for text in of(SLOT, Verdict.BAD, *later).warnings)
    assert of(SLOT, Verdict.BAD, Verdict.GOOD, Verdict.BAD).bad == f"{once.bad} (2 times in all)"
    assert of(SLOT, Verdict.FAILED, Verdict.GOOD, None).bad == ""


def test_in_the_slot_of_a_reader_only_the_last_that_was_read_back_counts() -> None:
    assert not of(READER, Verdict.BAD).same
    assert of(READER, Verdict.GOOD, Verdict.BAD).bad != ""
    for nothing_learned in (None, Verdict.INTERRUPTED, Verdict.FAILED, Verdict.UNVERIFIED):
        assert of(READER, Verdict.BAD, nothing_learned).bad != ""
    assert of(READER, Verdict.BAD, Verdict.GOOD).bad == ""


def test_a_card_is_known_to_have_been_good_with_a_node_image() -> None:
    built = datetime.fromisoformat(WHEN).timestamp() - 1

    def good(
        *verdicts: Verdict | None, node: str = "worker1", image: str = "0" * 64, at: float = built
    ) -> bool:
        events = [one for n, verdict in enumerate(verdicts) for one in run_on(SLOT, str(n), verdict, 4096)]
        return was_good_with(runs_of(events, SLOT), node, image, at)

    assert good(Verdict.GOOD) and good(Verdict.BAD, Verdict.GOOD) and good(Verdict.GOOD, None)
    assert not good() and not good(Verdict.BAD) and not good(Verdict.GOOD, Verdict.BAD)
    assert not good(Verdict.GOOD, node="worker2") and not good(Verdict.GOOD, image="1" * 64)
    assert not good(Verdict.GOOD, at=built + 1)  # built anew since: the bytes are others


def test_without_an_offset_the_error_is_shown() -> None:
    _, end = run_on(SLOT, "1", Verdict.FAILED)
    assert isinstance(end, Ended)
    assert past([Run(None, replace(end, offset=None))], SLOT).failure.endswith(": it does not")


def test_a_run_that_is_under_way_is_not_called_interrupted() -> None:
    mine = begun(SLOT, "1", "worker1", "")
    assert mine.owner.split()[1] == str(os.getpid())
    assert past([Run(mine)], SLOT).warnings == (
        f"a run on this card has been running since {shown(mine.time)}",
    )
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    for owner in (mine.owner + "0", mine.owner.replace(str(os.getpid()), str(child.pid)), "", "x", "a b c"):
        assert past([Run(replace(mine, owner=owner))], SLOT).interruption
