"""The threads around the slots: what they report reaches the right card, and nothing waits for a hung one.

The disks are made up here; tests/integration/card has the same with real devices.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.device.inventory import Candidate
from imagebuilder.errors import PiimgError
from imagebuilder.station import station as module
from imagebuilder.station.policy import ExaminedCard
from imagebuilder.station.slots import NOT_BEGUN, PULLED, SlotState
from imagebuilder.station.station import Station, StationWork, running
from imagebuilder.system import blockdev
from tests.unit.station.examples import RULES, card, reader, report

A, B = "usb 1-1", "usb 1-2"


class Table:
    """What lies in the slots, and what the station does to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disks = {A: reader(A), B: reader(B)}
        self.may_write, self.may_examine = threading.Event(), threading.Event()
        self.may_write.set()
        self.may_examine.set()
        self.verdict = Verdict.GOOD
        self.error: Exception | None = None
        self.kept: list[str] = []
        self.recorded: list[Verdict] = []
        self.noticed: list[Path] = []
        self.wakes = threading.Semaphore(0)
        self.now = 0.0
        monkeypatch.setattr(module, "find_disks", lambda virtual: self._disks())
        monkeypatch.setattr(module, "examine", self._examine)
        monkeypatch.setattr(blockdev, "notice_medium", self.noticed.append)
        self.missing = False
        self.station = Station(
            RULES,
            (),
            StationWork(self._write, self._ended),
            self.wakes.release,
            jobs=1,
            clock=lambda: self.now,
        )

    def put(self, slot: str, number: int) -> None:
        empty = reader(slot)
        self.disks[slot] = Disk(empty.node, f"8:{number}", 10**9, "usb", slot, removable=True, diskseq=number)

    def tick(self, until: Callable[[], bool]) -> list[CardReport]:
        """Have the station look, until something is so; the reports meanwhile."""
        ended: list[CardReport] = []
        for _ in range(200):
            self.now += 1.0
            ended += self.station.tick()
            if until():
                return ended
            self.wakes.acquire(timeout=0.01)
        raise AssertionError(self.station.slots.in_order())

    def is_in(self, slot: str, state: SlotState) -> Callable[[], bool]:
        return lambda: self.station.slots[slot].state is state

    def _disks(self) -> list[Disk]:
        if self.missing:
            raise PiimgError("a reader went", "")
        return list(self.disks.values())

    def _examine(self, disk: Disk, *_: object) -> ExaminedCard:
        self.may_examine.wait(5)
        if self.error is not None and not self.may_write.is_set():
            raise self.error
        return card(disk)

    def _write(self, one: Candidate, node: str) -> CardReport:
        self.may_write.wait(5)
        if self.error is not None:
            raise self.error
        return report(one.disk, node, self.verdict)

    def _ended(self, one: Candidate, report: CardReport) -> None:
        self.recorded.append(report.verdict)
        if report.done:
            self.kept.append(report.node)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    made = Table(monkeypatch)
    stop = threading.Event()
    try:
        with running(made.station, stop):
            yield made
            made.may_write.set()
            made.may_examine.set()
    finally:
        assert stop.is_set()


def test_a_card_gets_its_node_and_the_next_one_the_next(table: Table) -> None:
    table.put(A, 1)
    (first,) = table.tick(table.is_in(A, SlotState.DONE))
    table.put(A, 2)
    (second,) = table.tick(lambda: len(table.kept) == 2)
    assert [first.node, second.node] == table.kept == ["master", "worker1"]
    assert table.station.reports == [first, second]


def test_a_card_that_was_there_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(monkeypatch)
    table.put(A, 1)
    with running(table.station, threading.Event()):
        for _ in range(3):
            table.tick(table.is_in(A, SlotState.PRESENT))
    assert not table.kept


def test_what_is_not_written_after_all(table: Table) -> None:
    """Nor does a fault of ours cost the other cards their station."""
    for error, why in ((PiimgError("it is mounted", ""), "it is mounted"), (KeyError("x"), "KeyError('x')")):
        table.error = error
        table.put(A, id(error))
        assert table.tick(table.is_in(A, SlotState.REFUSED)) == []
        assert table.station.slots[A].why == why
    table.error = None
    table.put(B, 3)
    table.tick(table.is_in(B, SlotState.DONE))
    assert table.kept == ["master"]


def test_a_card_that_cannot_be_read(table: Table) -> None:
    table.may_write.clear()
    table.error = OSError(5, "Input/output error")
    table.put(A, 1)
    table.tick(table.is_in(A, SlotState.REFUSED))
    assert "Input/output error" in table.station.slots[A].why


def test_a_card_that_is_pulled_never_completes_its_node(table: Table) -> None:
    table.may_write.clear()
    table.put(A, 1)
    table.tick(table.is_in(A, SlotState.WRITING))
    table.disks[A] = reader(A)
    table.tick(lambda: table.station.slots[A].pulled)
    table.may_write.set()
    (ended,) = table.tick(table.is_in(A, SlotState.EMPTY))
    assert (ended.verdict, ended.error) == (Verdict.FAILED, f"{ended.device}: {PULLED}")
    assert table.recorded == [Verdict.FAILED]  # the history must not say good
    assert not table.kept and table.station.reports == [ended]


def test_a_card_that_goes_after_its_verdict_is_done(table: Table) -> None:
    """The writer has ended before the look that finds the slot empty."""
    table.may_write.clear()
    table.put(A, 1)
    table.tick(table.is_in(A, SlotState.WRITING))
    table.may_write.set()
    while not table.wakes.acquire(timeout=0.01):  # the examination's, or the writer's
        pass
    deadline = time.perf_counter() + 5
    while not all(future.done() for _, future in table.station._writes.values()):
        assert time.perf_counter() < deadline
    table.disks[A] = reader(A)
    (ended,) = table.tick(table.is_in(A, SlotState.EMPTY))
    assert ended.done and table.kept == ["master"]


def test_an_examination_of_a_card_that_is_gone_counts_for_nothing(table: Table) -> None:
    table.may_examine.clear()
    table.put(A, 1)
    table.tick(table.is_in(A, SlotState.EXAMINING))
    table.disks[A] = reader(A)
    table.may_examine.set()
    for _ in range(5):
        assert table.tick(table.is_in(A, SlotState.EMPTY)) == []
    assert not table.kept


def test_trouble_with_the_disks_is_waited_out(table: Table) -> None:
    table.put(A, 1)
    table.missing = True
    assert table.station.tick() == []
    table.missing = False
    table.tick(table.is_in(A, SlotState.DONE))


def test_cards_that_a_thread_uses_are_not_opened_for_a_look(table: Table) -> None:
    table.noticed.clear()
    table.may_write.clear()
    table.put(A, 1)
    table.tick(table.is_in(A, SlotState.WRITING))
    table.station.tick(notice=True)
    assert len(table.noticed) == 1  # of B


def test_the_end_waits_for_the_card_that_is_written(table: Table) -> None:
    table.may_write.clear()
    table.put(A, 1)
    table.put(B, 2)
    table.tick(lambda: table.is_in(A, SlotState.WRITING)() and table.is_in(B, SlotState.WAITING)())
    threading.Timer(0.1, table.may_write.set).start()
    (ended,) = table.station.end()
    assert ended.node == "master" and table.kept == ["master"]
    assert table.station.slots[B].why == NOT_BEGUN
