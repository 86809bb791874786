"""Cards that do not answer for a while or for ever, and cards that are pulled out."""

import os
import pickle
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.card.batch import run as run_batch
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.write import NO_NODE, PATIENCE, FlashJob
from imagebuilder.device.discovery import Disk, find_disks
from imagebuilder.device.holders import holdings_of, read_host
from imagebuilder.events import Silent
from tests.integration.card.faults import Bench, When, first_wrong, tell
from tests.integration.card.rig import MIB
from tests.support.waiting import happens

pytestmark = pytest.mark.long

HEADING = "Cards that do not answer, or go"


@pytest.mark.parametrize("way", ["write", "read"])
def test_a_stall_shorter_than_the_patience_is_survived(bench: Bench, way: str) -> None:
    disk = bench.make_faulty(fault=f"stall-on-{way}", stall="2", times=1, at=bench.noise(2))
    survived(bench, disk, f"a {way} takes 2 s", patience=4)


def test_the_flush_may_take_longer_than_the_patience(bench: Bench) -> None:
    """A card tidies up for as long as it must."""
    disk = bench.make_faulty(off=1, fault="stall-on-flush", stall="2", times=1)
    when = When("write", 0.5, lambda: bench.make_faulty.switch(disk))
    survived(bench, disk, "the flush takes longer than the time limit", when, patience=1)


def survived(bench: Bench, disk: Disk, what: str, when: When | None = None, *, patience: float) -> None:
    """Flash a card that stalls for 2 s; it must be good."""
    begun = time.monotonic()
    report = bench.flash(disk, when, patience=patience)
    assert (report.verdict, report.error, report.retries) == (Verdict.GOOD, "", 0)
    assert time.monotonic() - begun > 2
    tell(HEADING, what, report.verdict, "–")


def test_stalls_of_thirty_seconds_are_survived_by_default(bench: Bench) -> None:
    """Two cards at once, with the patience piimg has: a card tidies up, or a reader is reset."""
    assert PATIENCE > 30
    disks = [
        bench.make_faulty(fault=f"stall-on-{way}", stall="30", times=1, at=bench.noise(2))
        for way in ("write", "read")
    ]
    begun = time.monotonic()
    reports = run_batch(
        [FlashJob(disk=disk, source=bench.source, target=NO_NODE) for disk in disks],
        Silent(),
        threading.Event(),
    )
    assert [report.verdict for report in reports] == [Verdict.GOOD, Verdict.GOOD]
    assert 30 < time.monotonic() - begun < 45
    for one in reports:
        tell(HEADING, "a write or a read takes 30 s", one.verdict, "–")


@pytest.mark.parametrize("way", ["write", "read-back"])
def test_a_card_that_never_answers_is_given_up(bench: Bench, way: str) -> None:
    """In a process of its own: not even that may hang once the card is pulled out."""
    at = bench.noise(2)
    fault = f"stall-on-{way.removesuffix('-back')}"
    disk = bench.make_faulty(off=1, fault=fault, stall="1000", at=at)
    other = bench.make_card()
    when = When(way, 0, lambda: bench.make_faulty.switch(disk), str(disk.node))
    jobs = [
        FlashJob(disk=disk, source=bench.source, target=NO_NODE, patience=2),
        FlashJob(disk=other, source=bench.source, target=NO_NODE),
    ]
    begun = time.monotonic()
    with reports_of(jobs, when) as (child, report, sound):
        assert time.monotonic() - begun < 6
        assert (sound.verdict, sound.error) == (Verdict.GOOD, "")
        assert first_wrong(bench.source, Path(other.backing)) is None
        assert report.verdict is Verdict.FAILED
        assert "does not answer" in report.error
        assert report.offset is not None
        # Pieces of 1 MiB are on their way two at a time; a card that hangs answers none, and one is reported.
        assert report.offset <= at < report.offset + 4 * MIB
        assert report.partition == 2
        bench.check_head(disk, report)
        bench.make_faulty.pull(disk)
        assert ends(child, 5), "it hangs though the card was pulled out"
    words = {"write": "a write", "read-back": "a read"}
    tell(
        HEADING, f"{words[way]} never ends", report.verdict, "byte, partition, file; that it does not answer"
    )


@contextmanager
def reports_of(jobs: list[FlashJob], when: When) -> Iterator[tuple[int, CardReport, CardReport]]:
    """Flash two cards in a child process: its number, and the reports, as soon as they are there."""
    listening, telling = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(telling, pickle.dumps(run_batch(jobs, when, threading.Event())))
            status = 0
        finally:
            os._exit(status)
    os.close(telling)
    try:
        ready, _, _ = select.select([listening], [], [], 30)
        assert ready, "no report came"
        report, sound = pickle.loads(os.read(listening, 1 << 20))
        yield child, report, sound
    finally:
        os.close(listening)
        if not ends(child, 0):
            os.kill(child, signal.SIGKILL)  # it goes once its card is gone, at the end of the test


def ends(child: int, seconds: float) -> bool:
    """Whether a child process ends in time; it is gone then."""

    def ended() -> bool:
        try:
            return os.waitpid(child, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    return happens(ended, seconds)


@pytest.mark.parametrize("share", [0, 1, 50, 99])
@pytest.mark.parametrize("task", ["write", "read-back"])
def test_a_card_that_is_pulled_out_is_reported(bench: Bench, task: str, share: int) -> None:
    disk = bench.make_faulty()
    report = bench.flash(disk, When(task, share / 100, lambda: bench.make_faulty.pull(disk)))
    assert report.verdict is Verdict.FAILED
    assert "Input/output error" in report.error
    flushing = "flushing what was written failed" in report.error  # which has no place
    assert (report.offset is None) is flushing
    assert disk.node in [find_disk.node for find_disk in find_disks(virtual=True)]
    assert holdings_of(disk.node.name, read_host()) == []  # a dead card does not stop the search
    late = (task, share) == ("write", 99)
    assert late or not flushing
    reported = "byte, partition, file; or that it was the flush" if late else "byte, partition, file"
    tell(HEADING, f"pulled out at {share} % of the {task}", report.verdict, reported)


def test_time_in_which_piimg_itself_was_stopped_does_not_count(bench: Bench) -> None:
    """Ctrl-Z and fg, a frozen container, a laptop that slept: here for 4 s in the midst of a write."""
    disk = bench.make_faulty(off=1, fault="stall-on-write", stall="5.5", times=1, at=bench.noise(2))
    other = bench.make_card()
    when = When("write", 0, lambda: halt(bench, disk), str(disk.node))
    jobs = [
        FlashJob(disk=disk, source=bench.source, target=NO_NODE, patience=2.5),
        FlashJob(disk=other, source=bench.source, target=NO_NODE, patience=2.5),
    ]
    with reports_of(jobs, when) as (_, report, sound):
        assert [one.error for one in (report, sound)] == ["", ""]
        assert (report.verdict, sound.verdict) == (Verdict.GOOD, Verdict.GOOD)
        assert report.seconds > 5
    tell(HEADING, "piimg itself is stopped for longer than the time limit", report.verdict, "–")


def halt(bench: Bench, disk: Disk) -> None:
    """Let the card stall, and stop this process for 4 s soon after that."""
    bench.make_faulty.switch(disk)
    process = os.getpid()
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -STOP {process}; sleep 4; kill -CONT {process}"])


def read_only(disk: Disk, on: bool) -> None:
    """Make the kernel refuse writes to a card, as it does for one whose reader says so."""
    subprocess.run(["blockdev", "--setro" if on else "--setrw", str(disk.node)], check=True)


def test_a_card_that_the_kernel_makes_read_only(bench: Bench) -> None:
    disk = bench.make_faulty()
    report = bench.flash(disk, When("write", 0.5, lambda: read_only(disk, True)))
    read_only(disk, False)
    assert report.verdict is Verdict.FAILED
    assert "Operation not permitted" in report.error
    assert report.offset is not None
    tell(HEADING, "made read-only at 50 % of the write", report.verdict, "byte, partition, file")
