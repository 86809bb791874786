"""Cards that break: each fault once and for good, on a real loop device, beside a sound card."""

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict, WriteMode
from imagebuilder.card.source import HEAD
from imagebuilder.card.write import NO_NODE, FlashJob, flash
from imagebuilder.events import Silent
from imagebuilder.image.locate import file_at
from tests.integration.card.faults import Bench, When, first_wrong, tell, where
from tests.integration.card.rig import below

pytestmark = pytest.mark.long

HEADING = "Cards that break"
WORDS = {
    "write-error": "it cannot be written (EIO)",
    "read-error": "it cannot be read back (EIO)",
    "flip-on-write": "a bit flips when it is written",
    "flip-on-read": "a bit flips when it is read",
    "lost-write": "a write is lost: the old block stays",
    "torn-write": "half of a 4 KiB block stays old",
}
PLACES = {
    "boot": "in a file of the boot partition",
    "root": "in a file of the root partition",
    "head": "in the first MiB",
    "last": "in the last block",
}


@dataclass(frozen=True)
class Case:
    """A fault at a place; ``once`` it passes, else it is there for good."""

    fault: str
    place: str
    once: bool

    def __str__(self) -> str:
        return f"{self.fault}-{self.place}-{'once' if self.once else 'for-good'}"

    @property
    def writes(self) -> bool:
        """Whether it is a fault of writing."""
        return "write" in self.fault


PASSING = (True, False)
CASES = [Case(fault, place, once) for place in ("root", "head") for fault in WORDS for once in PASSING]
CASES += [Case(fault, "last", once) for fault in ("write-error", "read-error") for once in PASSING]
CASES += [Case(fault, "boot", False) for fault in ("flip-on-write", "write-error")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fault_is_fixed_or_reported_where(bench: Bench, case: Case) -> None:
    at = {"boot": bench.noise(1), "root": bench.noise(2), "head": 450, "last": bench.last}[case.place]
    once = {"times": 1} if case.once else {}
    disk = bench.make_faulty(off=1, fault=case.fault, at=at, **once)
    # The head is written and read back after all else; what is read first must not use the fault up.
    task = "write" if case.writes and case.place != "head" else "read-back"
    report = bench.flash(disk, When(task, 0, lambda: bench.make_faulty.switch(disk)))
    if case.once:
        assert (report.verdict, report.error, report.offset) == (Verdict.GOOD, "", None)
        assert report.retries >= 1
        assert first_wrong(bench.source, below(disk)) is None
    else:
        assert report.verdict is (Verdict.FAILED if case.fault == "write-error" else Verdict.BAD)
        assert report.offset is not None
        assert report.retries >= 3
        check_place(bench, case, at, report.offset, below(disk))
        assert str(report.offset) in report.error
        part = {"boot": 1, "root": 2, "head": None, "last": 2}[case.place]
        assert report.partition == part
        assert report.file == (
            file_at(bench.source.content.base, bench.source.slices[part - 1], report.offset) if part else ""
        )
        if case.place in ("boot", "root"):
            assert report.file == "/noise"
    tell(
        HEADING,
        f"{PLACES[case.place]}, {WORDS[case.fault]}",
        "once" if case.once else "for good",
        report.verdict,
        where(report),
        str(report.retries),
    )


def check_place(bench: Bench, case: Case, at: int, reported: int, medium: Path) -> None:
    """The reported place is the first wrong byte on the medium, if it can still be seen, or the fault's."""
    assert reported // 4096 == at // 4096
    if case.fault in ("write-error", "read-error"):
        assert reported % 4096 == 0
    elif case.fault in ("flip-on-write", "flip-on-read"):
        assert reported == at
    if case.writes and case.fault != "write-error" and case.place != "head":
        assert reported == first_wrong(bench.source, medium, HEAD)


AGAIN = {
    # fault, where, times (0: for good): verdict
    ("flip-on-write", "differs", 0): Verdict.BAD,
    ("flip-on-write", "differs", 1): Verdict.GOOD,
    ("lost-write", "differs", 0): Verdict.BAD,
    ("read-error", "right", 0): Verdict.BAD,
    ("read-error", "right", 1): Verdict.GOOD,
    ("flip-on-read", "right", 0): Verdict.BAD,
    ("flip-on-read", "right", 1): Verdict.GOOD,
    ("write-error", "right", 0): Verdict.GOOD,
}


@pytest.mark.parametrize(("fault", "place", "times"), AGAIN)
def test_a_fault_of_a_card_that_was_flashed_before(bench: Bench, fault: str, place: str, times: int) -> None:
    """Only what differs is written: what is right is read, and believed only because it was."""
    right, differs = bench.noise(1), bench.noise(2)
    limit = {"times": times} if times else {}
    at = differs if place == "differs" else right
    disk = bench.make_faulty(fault=fault, at=at, **limit)
    with below(disk).open("r+b") as medium:
        medium.write(bench.image)
        medium.seek(differs // 4096 * 4096)
        medium.write(b"\xff" * 4096)
    report = bench.flash(disk)
    assert report.verdict is AGAIN[fault, place, times], report.error
    assert report.mode is WriteMode.DIFFERENCES
    assert report.skipped > 0.8 * bench.source.body
    if report.verdict is Verdict.GOOD:
        assert first_wrong(bench.source, below(disk)) is None
    else:
        assert report.offset is not None
        assert report.offset // 4096 == at // 4096
        assert (report.partition, report.file) == (2 if at == differs else 1, "/noise")
    tell(
        HEADING,
        f"flashed before, {'where it differs' if at == differs else 'where it is right'}, {WORDS[fault]}",
        "once" if times else "for good",
        report.verdict,
        where(report),
        str(report.retries),
    )


def test_a_card_that_goes_read_only_in_mid_write(bench: Bench) -> None:
    disk = bench.make_faulty(fault="write-error", error="EROFS", after=bench.source.body * 3 // 4)
    report = bench.flash(disk)
    assert report.verdict is Verdict.FAILED
    assert report.retries >= 3
    assert f"writing failed at byte {report.offset}" in report.error
    assert report.partition in (1, 2)
    tell(
        HEADING,
        "from the middle on it takes no more writes",
        "for good",
        report.verdict,
        "byte, partition, file",
        str(report.retries),
    )


def test_without_read_back_nobody_says_good(bench: Bench) -> None:
    disk = bench.make_faulty(fault="flip-on-write", at=bench.noise(2))
    report = flash(
        FlashJob(disk=disk, source=bench.source, target=NO_NODE, verify=False), Silent(), threading.Event()
    )
    assert (report.verdict, report.read_back) == (Verdict.UNVERIFIED, 0)
    tell(HEADING, "a bit flips, and nobody reads back (--no-verify)", "for good", report.verdict, "–", "0")
