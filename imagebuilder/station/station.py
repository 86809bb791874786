"""A station: cards are put into its slots, and each is written as it comes.

What is in a slot when the station begins stays as it is. From then on a card that shows up in a slot and
stays there is looked at on a thread of its own, ``decide`` says what becomes of it, and it is written on
another. All else happens in ``tick``, on one thread: what each slot is at is never in two hands.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from imagebuilder.card.report import CardReport
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk, counted, find_disks
from imagebuilder.device.existing import unfinished_on, what_is_lost
from imagebuilder.device.identity import Carried
from imagebuilder.device.inventory import Candidate, survey
from imagebuilder.device.node_card import what_is_beside
from imagebuilder.errors import PiimgError
from imagebuilder.station.policy import Rules, Seen, Stage, decide
from imagebuilder.system import blockdev

_log = logging.getLogger(__name__)

_SETTLED = 1.0  # seconds a card must be there: a desktop may be mounting it, a hand not yet have let go of it
_LOOKS = 16  # cards that are looked at at once
_MOST = 256  # cards that are written at once, where nothing else is said

HERE_BEFORE = "it was here before the station began"
CUT_OFF = "piimg was cut off at it"

Write = Callable[[Candidate, str], CardReport]
"""Write a node to a card, on the card's own thread. PiimgError when it may not be written to after all."""


@dataclass
class Place:
    """A slot and what it is at. ``why`` says why a card is left alone or asked about, or how it failed."""

    slot: str
    disk: Disk | None = None
    stage: Stage = Stage.EMPTY
    node: str = ""
    why: str = ""
    since: float = 0.0
    seen: Seen | None = None
    report: CardReport | None = None
    looking: Future[Seen] | None = field(default=None, repr=False)
    writing: Future[CardReport] | None = field(default=None, repr=False)

    @property
    def busy(self) -> bool:
        """Whether a thread is at the card in it."""
        return self.looking is not None or self.writing is not None


def look_at(disk: Disk, virtual: bool, known: Collection[str], was_bad: Callable[[Disk], str]) -> Seen:
    """Look at a card, which is only read.

    ``known`` are the boot paths of the cluster's node images; ``was_bad`` says that it is known as a bad one.
    """
    (card,) = survey([disk], virtual)
    if card.refusals:
        return Seen(card)
    node = card.carried.node
    beside = what_is_beside(disk.node, node, known) if node else ""
    return Seen(card, what_is_lost(disk.node), unfinished_on(disk.node), beside=beside, bad=was_bad(disk))


class Station:
    """The slots, and who is at them. Use ``running`` to have one.

    ``done`` are the nodes that have a good card; ``known`` the paths that the cluster's node images have on
    their boot partition (``ours.boot_paths``). ``ring`` is called, on any thread, when ``tick`` has
    something to do. ``was_bad`` says, on any thread, that a card is known as a bad one; empty: it is not.
    """

    def __init__(
        self,
        rules: Rules,
        done: Iterable[str],
        write: Write,
        ring: Callable[[], None],
        *,
        known: Collection[str] = (),
        virtual: bool = False,
        jobs: int | None = None,
        was_bad: Callable[[Disk], str] = lambda disk: "",
    ) -> None:
        self.rules, self.virtual, self._known = rules, virtual, known
        self.places: dict[str, Place] = {slot: Place(slot) for slot in rules.slots}
        self.done = set(done)
        self.reports: list[CardReport] = []
        self._write, self._ring, self._was_bad = write, ring, was_bad
        self._before: dict[str, tuple[object, Carried | None]] = {}
        self._looks = ThreadPoolExecutor(_LOOKS, "look")
        self._writers = ThreadPoolExecutor(jobs or _MOST, "card")

    @property
    def remaining(self) -> list[str]:
        """The nodes that have no good card yet."""
        return [node for node in self.rules.nodes if node not in self.done]

    @property
    def at_work(self) -> set[str]:
        """The nodes that get a card now, or as soon as somebody says so."""
        places = self.places.values()
        return {place.node for place in places if place.stage in (Stage.WRITING, Stage.ASKING)}

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.remaining and not any(place.writing for place in self.places.values())

    @property
    def next_node(self) -> str:
        """The node that the next card gets where nothing else is said; empty when none is needed."""
        at_work = self.at_work
        return next((node for node in self.remaining if node not in at_work), "")

    def in_order(self) -> list[Place]:
        """The slots as people count them."""
        return sorted(self.places.values(), key=lambda one: counted(one.slot))

    def begin(self) -> None:
        """Take note of what is in the slots: it is left alone for as long as it stays there."""
        for disk in self._disks():
            blockdev.notice_medium(disk.node)  # or one that the kernel has not seen yet would seem to be new
        for disk in self._disks():
            if disk.has_medium:
                place = self._place(disk.slot)
                place.disk, place.stage, place.why = disk, Stage.LEFT, HERE_BEFORE
                self._before[disk.slot] = (_likeness(disk), None)
                self._look(place, disk)

    def tick(self, notice: bool = False) -> list[CardReport]:
        """Look at the slots and do what is due; give the reports of the cards that ended.

        ``notice`` makes the kernel look for new media in the slots that nothing is done to.
        """
        if notice:
            for place in self.places.values():
                if place.disk is not None and not place.busy:
                    blockdev.notice_medium(place.disk.node)
        try:
            disks = {disk.slot: disk for disk in self._disks()}
        except (PiimgError, OSError):
            return []  # trouble of the host, or a reader that goes meanwhile: there is another look soon
        for place in self.places.values():
            if place.looking is not None and not _is_in(place, disks):
                place.looking = None  # whatever is found out is of a card that is not there any more
        ended = self._harvest_all()
        self._see(disks)
        for place in self.in_order():
            self._advance(place)
        return ended

    def end(self) -> list[CardReport]:
        """Wait for the cards that are written, and give their reports. They were told to stop before."""
        self._looks.shutdown(cancel_futures=True)
        self._writers.shutdown(cancel_futures=True)
        return self._harvest_all()

    def _harvest_all(self) -> list[CardReport]:
        ended = [report for place in self.in_order() if (report := self._harvest(place)) is not None]
        self.reports += ended
        return ended

    def question(self) -> Place | None:
        """The slot that waits longest for an answer; None when no question is open."""
        asking = [place for place in self.places.values() if place.stage is Stage.ASKING]
        return min(asking, key=lambda place: place.since, default=None)

    def answer(self, place: Place, node: str) -> None:
        """Write ``node`` to the card that was asked about; with no node it is left alone."""
        if place.stage is not Stage.ASKING or place.seen is None:
            return  # the card was taken out meanwhile
        if node and node not in self.done and node not in self.at_work - {place.node}:
            self._begin(place, place.seen, node)
        else:
            place.stage, place.node, place.why = Stage.LEFT, "", "as you wished"

    def _disks(self) -> list[Disk]:
        slots = self.rules.slots
        return [
            disk
            for disk in find_disks(self.virtual)
            if not policy.kind(disk, self.virtual) and (not slots or disk.slot in slots)
        ]

    def _place(self, slot: str) -> Place:
        return self.places.setdefault(slot, Place(slot))

    def _see(self, disks: Mapping[str, Disk]) -> None:
        """Take in what is in the slots now. Where a thread is at a card, its end is waited for first."""
        for slot, disk in disks.items():
            place = self._place(slot)
            if place.busy or (place.disk is not None and place.disk.identity == disk.identity):
                continue
            stage = Stage.ARRIVED if disk.has_medium else Stage.EMPTY
            self.places[slot] = Place(slot, disk, stage, since=time.monotonic())
        for slot in [slot for slot in self.places if slot not in disks and not self.places[slot].busy]:
            if slot in self.rules.slots:
                self.places[slot] = Place(slot)
            else:
                del self.places[slot]  # the reader was unplugged

    def _advance(self, place: Place) -> None:
        """Do the next thing with a card that no thread is at."""
        if place.busy or place.disk is None:
            return
        if place.stage is Stage.SPARE and self.next_node:
            place.stage = Stage.ARRIVED  # what was seen of it may not be true any more
        if place.stage is Stage.ARRIVED and time.monotonic() - place.since >= _SETTLED:
            self._look(place, place.disk)

    def _look(self, place: Place, disk: Disk) -> None:
        place.looking = self._looks.submit(look_at, disk, self.virtual, self._known, self._was_bad)
        place.looking.add_done_callback(lambda _: self._ring())

    def _begin(self, place: Place, seen: Seen, node: str) -> None:
        self._before.pop(place.slot, None)
        place.stage, place.node, place.why = Stage.WRITING, node, ""
        _log.info("%s: write %s", place.slot, node)
        place.writing = self._writers.submit(self._write, seen.candidate, node)
        place.writing.add_done_callback(lambda _: self._ring())

    def _decide(self, place: Place, seen: Seen) -> None:
        decision = decide(seen, self.rules, self.done, self.at_work)
        _log.info("%s: card seen: %s %s %s", place.slot, decision.stage, decision.node, decision.why)
        if decision.stage is Stage.WRITING:
            self._begin(place, seen, decision.node)
        else:
            place.stage, place.node, place.why = decision.stage, decision.node, decision.why

    def _harvest(self, place: Place) -> CardReport | None:
        """Take in what a thread found or did; the report of a card that was written."""
        if place.looking is not None and place.looking.done():
            looking, place.looking = place.looking, None
            self._seen(place, looking)
        if place.writing is not None and place.writing.done():
            writing, place.writing = place.writing, None
            return self._written(place, writing)
        return None

    def _seen(self, place: Place, looking: Future[Seen]) -> None:
        try:
            seen = looking.result()
        except Exception as error:  # a card may hold anything; it must not cost the others their station
            _log.info("%s: card cannot be examined: %s", place.slot, _said(error))
            if place.stage is Stage.ARRIVED:
                place.stage, place.why = Stage.LEFT, _said(error)
            return
        carried = seen.candidate.carried
        if place.stage is Stage.ARRIVED:
            looks, before = _likeness(seen.candidate.disk), self._before.get(place.slot)
            returned = before in ((looks, None), (looks, carried))
            place.seen = replace(seen, returned=returned and bool(carried.node))
            self._decide(place, place.seen)
        else:  # it was here before
            self._before[place.slot] = (_likeness(seen.candidate.disk), carried)
            place.node = carried.node
            place.why = f"{HERE_BEFORE}, and {CUT_OFF}" if seen.unfinished else place.why

    def _written(self, place: Place, writing: Future[CardReport]) -> CardReport | None:
        try:
            report = writing.result()
        except CancelledError:
            place.stage, place.why = Stage.LEFT, "it was not begun"
            return None
        except Exception as error:  # mostly that it may not be written to after all
            place.stage, place.why = Stage.LEFT, _said(error)
            _log.info("%s: card is not written: %s", place.slot, place.why)
            return None
        place.report, place.why = report, report.problem
        place.stage = Stage.DONE if report.done else Stage.FAILED
        _log.info("%s: %s: %s", place.slot, report.node, report.verdict)
        if report.done:
            self.done.add(report.node)
        return report


def _is_in(place: Place, disks: Mapping[str, Disk]) -> bool:
    """Whether the card of ``place`` is still in its slot."""
    now = disks.get(place.slot)
    return place.disk is not None and now is not None and now.identity == place.disk.identity


def _likeness(disk: Disk) -> tuple[object, ...]:
    """What a card looks like that shows up again. The kernel takes it for another one, as after a reset."""
    return (disk.size, disk.serial, disk.model)


def _said(error: Exception) -> str:
    if isinstance(error, policy.DiskRefused):
        return policy.in_words(error.refusals)
    return str(error) if isinstance(error, (PiimgError, OSError)) else repr(error)


@contextmanager
def running(station: Station, stop: threading.Event) -> Iterator[Station]:
    """A station that has begun. Whatever ends the block sets ``stop``, and waits for the cards at work."""
    try:
        station.begin()
        yield station
    finally:
        stop.set()
        station.end()
