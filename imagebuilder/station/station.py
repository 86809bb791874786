"""Run a station: check the slots, and examine and write cards on threads.

``slots.py`` decides the state of each slot and the next action. This module has only the disks, the threads
and the clock. ``Station.tick`` runs on one thread.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from imagebuilder.card.report import CardReport
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk, find_disks
from imagebuilder.device.existing import existing_data, unfinished_on
from imagebuilder.device.inventory import Candidate, survey
from imagebuilder.device.node_card import foreign_content
from imagebuilder.errors import PiimgError
from imagebuilder.station import slots
from imagebuilder.station.policy import ExaminedCard, StationRules
from imagebuilder.station.slots import (
    CardExamined,
    CardGone,
    CardNotWritten,
    CardSeen,
    CardWritten,
    ExaminationFailed,
    ExamineCard,
    Slot,
    SlotAction,
    Slots,
)
from imagebuilder.system import blockdev

_log = logging.getLogger(__name__)

_EXAMINED_AT_ONCE = 16
_WRITTEN_AT_ONCE = 256  # the default of ``jobs``


@dataclass(frozen=True)
class StationWork:
    """The functions that a station calls for its cards. All except ``ended`` run on many threads.

    ``write`` writes a node to a card; it raises PiimgError when the card may not be written to. ``ended`` is
    called with each card that was written to and its final report: a card that was pulled out has failed,
    whatever its writer reported. ``bad_before`` returns a text when the card was bad before, else an empty
    text.
    """

    write: Callable[[Candidate, str], CardReport]
    ended: Callable[[Candidate, CardReport], None] = lambda card, report: None
    bad_before: Callable[[Disk], str] = lambda disk: ""


def examine(
    disk: Disk, virtual: bool, known: Collection[str], bad_before: Callable[[Disk], str]
) -> ExaminedCard:
    """Read a card. Nothing is written. ``known`` are the boot paths of the cluster's node images.

    Raises PiimgError or OSError when it cannot be read.
    """
    (card,) = survey([disk], virtual)
    if card.refusals:
        return ExaminedCard(card)
    node = card.carried.node
    beside = foreign_content(disk.node, node, known) if node else ""
    lost, unfinished = existing_data(disk.node), unfinished_on(disk.node)
    return ExaminedCard(card, lost, unfinished, beside=beside, bad=bad_before(disk))


class Station:
    """The devices and threads of a station. Use it with ``running``.

    ``completed`` are the nodes that have a good card; ``known`` the paths on the boot partitions of the
    cluster's node images (``node_card.boot_paths``). ``wake`` is called, on any thread, when ``tick`` should
    be called. At most ``jobs`` cards are written at once.
    """

    def __init__(
        self,
        rules: StationRules,
        completed: Iterable[str],
        work: StationWork,
        wake: Callable[[], None],
        *,
        known: Collection[str] = (),
        virtual: bool = False,
        jobs: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = Slots(rules, completed, jobs or _WRITTEN_AT_ONCE)
        self.reports: list[CardReport] = []
        self._work, self._wake, self._known, self._virtual = work, wake, known, virtual
        self._clock = clock
        self._examinations: dict[str, tuple[int, Future[ExaminedCard]]] = {}
        self._writes: dict[str, tuple[Candidate, Future[CardReport]]] = {}
        self._examiners = ThreadPoolExecutor(_EXAMINED_AT_ONCE, "look")
        self._writers = ThreadPoolExecutor(self.slots.writers, "card")

    def begin(self) -> None:
        """Record the cards in the slots: they are not written while they stay there."""
        for disk in self._disks():
            blockdev.notice_medium(
                disk.node
            )  # else a card that the kernel has not detected yet would look new
        self._do(self.slots.begin(self._disks()))

    def tick(self, notice: bool = False) -> list[CardReport]:
        """Check the slots and perform the actions that are due; return the reports of finished cards.

        ``notice`` makes the kernel detect new media in the slots that no thread uses.
        """
        ended = self._writes_ended()  # first: a card that is removed after its verdict was not pulled
        if notice:
            for slot in self.slots.in_order():
                if slot.disk is not None and slot.name not in self._examinations.keys() | self._writes.keys():
                    blockdev.notice_medium(slot.disk.node)
        try:
            disks = {disk.slot: disk for disk in self._disks()}
        except (PiimgError, OSError):
            return ended  # an error of the host, or a reader was removed: the next check is soon
        self._look(disks)
        self._examinations_ended()  # after the check: a result counts only if the card is still there
        return ended

    def answer(self, slot: Slot, node: str) -> None:
        """Answer the question about a card: write ``node`` to it, or, with an empty node, do not write."""
        self._do(self.slots.handle(slot.name, slots.Answered(slot.ticket, node)))

    def end(self) -> list[CardReport]:
        """Start no more cards, wait for those that are being written, and return their reports."""
        self.slots.stop()
        self._examiners.shutdown(cancel_futures=True)
        self._writers.shutdown(cancel_futures=True)
        return self._writes_ended()

    def _disks(self) -> list[Disk]:
        allowed = self.slots.rules.slots
        return [
            disk
            for disk in find_disks(self._virtual)
            if not policy.kind(disk, self._virtual) and (not allowed or disk.slot in allowed)
        ]

    def _look(self, disks: dict[str, Disk]) -> None:
        now = self._clock()
        names = [*disks, *(slot.name for slot in self.slots.in_order() if slot.name not in disks)]
        for name in names:
            disk = disks.get(name)
            present = disk is not None and disk.has_medium
            event = CardSeen(disk, now) if disk is not None and present else CardGone(disk)
            self._do(self.slots.handle(name, event))

    def _do(self, actions: Iterable[SlotAction]) -> None:
        """Submit actions to the threads."""
        for action in actions:
            if isinstance(action, ExamineCard):
                _log.info("%s: examine the card in %s", action.slot, action.disk.node)
                examination = self._examiners.submit(
                    examine, action.disk, self._virtual, self._known, self._work.bad_before
                )
                self._examinations[action.slot] = action.ticket, examination
                examination.add_done_callback(lambda _: self._wake())
            else:
                _log.info("%s: write %s", action.slot, action.node)
                writing = self._writers.submit(self._work.write, action.card, action.node)
                self._writes[action.slot] = action.card, writing
                writing.add_done_callback(lambda _: self._wake())

    def _examinations_ended(self) -> None:
        for name, (ticket, future) in list(self._examinations.items()):
            if not future.done():
                continue
            del self._examinations[name]
            try:
                event: CardExamined | ExaminationFailed = CardExamined(ticket, future.result())
            except Exception as error:  # any content of one card must not end the station
                event = ExaminationFailed(ticket, _text(error))
                _log.info("%s: card cannot be examined: %s", name, event.why)
            self._do(self.slots.handle(name, event))

    def _writes_ended(self) -> list[CardReport]:
        ended = []
        for name, (card, future) in list(self._writes.items()):
            if not future.done():
                continue
            del self._writes[name]
            report = self._write_ended(name, card, future)
            if report is not None:
                ended.append(report)
        self.reports += ended
        return ended

    def _write_ended(self, name: str, card: Candidate, future: Future[CardReport]) -> CardReport | None:
        """Process the end of a writer; returns the report if the card was written to."""
        try:
            event: CardWritten | CardNotWritten = CardWritten(future.result())
        except CancelledError:
            event = CardNotWritten(slots.NOT_BEGUN)
        except Exception as error:  # often the card may not be written to
            event = CardNotWritten(_text(error))
            _log.info("%s: card is not written: %s", name, event.why)
        actions = self.slots.handle(name, event)
        slot = self.slots[name]
        if slot.report is not None:
            _log.info("%s: %s: %s", name, slot.report.node, slot.report.verdict)
        if isinstance(event, CardWritten) and slot.report is not None:
            self._work.ended(card, slot.report)
        self._do(actions)
        return slot.report


def _text(error: Exception) -> str:
    if isinstance(error, policy.DiskRefused):
        return policy.in_words(error.refusals)
    return str(error) if isinstance(error, (PiimgError, OSError)) else repr(error)


@contextmanager
def running(station: Station, stop: threading.Event) -> Iterator[Station]:
    """Run a station. The end of the block sets ``stop``, and waits for the cards that are being written."""
    try:
        station.begin()
        yield station
    finally:
        stop.set()
        station.end()
