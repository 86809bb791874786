"""The slots of a station as a state machine: no threads, no clock, no devices.

``Slots.handle`` and ``Slots.stop`` take events and return actions: examine a card, write a card. The caller
performs the actions and reports their results with another event. For use by one thread only.

The states of a card: settling, examining, asking if the policy needs an answer, waiting for a writer,
writing, and done or failed. A card is refused when the policy or the answer says so.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk, natural_order
from imagebuilder.device.identity import Carried
from imagebuilder.device.inventory import Candidate
from imagebuilder.station.policy import ExaminedCard, Ruling, StationRules, decide

SETTLED = 1.0  # seconds a card must be present: a desktop may be mounting it, or the user still inserting it
DECLINED = "nothing was written"
NOT_BEGUN = "writing was not started"
PULLED = "it was taken out while it was written"


class SlotState(StrEnum):
    """The state of a slot. The values are public: programs receive them in the events."""

    EMPTY = "empty"
    PRESENT = "present"  # a card was there when the station began: not written to
    SETTLING = "settling"  # a card was inserted; it must be present for SETTLED seconds
    EXAMINING = "examining"  # the card is read
    SPARE = "spare"  # every node has a card or is getting one; if that fails, this card is used
    ASKING = "asking"  # a question to the user is open
    WAITING = "waiting"  # the card is written as soon as a writer is free
    WRITING = "writing"
    REFUSED = "refused"  # not written to
    DONE = "done"  # written, with the requested result
    FAILED = "failed"


RESERVED = (SlotState.ASKING, SlotState.WAITING, SlotState.WRITING)
"""The states in which the node of a slot is not given to another card."""


@dataclass(frozen=True)
class Slot:
    """A slot and the card in it.

    ``disk`` is the device of the reader when the slot is empty, and None without a reader. ``since`` is the
    time when the card was first seen, in seconds of any monotonic clock. ``ticket`` is the number of this
    card: a result or an answer with another number is about a card that was removed. ``why`` is the reason
    for a refusal, a question or a failure. ``cut_off``: an earlier run was interrupted while it wrote this
    card. ``pulled``: the card was removed while it was written.
    """

    name: str
    disk: Disk | None = None
    state: SlotState = SlotState.EMPTY
    since: float = 0.0
    ticket: int = 0
    examined: ExaminedCard | None = None
    node: str = ""
    why: str = ""
    cut_off: bool = False
    pulled: bool = False
    report: CardReport | None = None


@dataclass(frozen=True)
class CardSeen:
    """The slot contains a card, at the time ``now`` in seconds. Repeat this event at every check."""

    disk: Disk
    now: float


@dataclass(frozen=True)
class CardGone:
    """The slot contains no card. ``reader`` is the device of the empty slot, None without a reader."""

    reader: Disk | None = None


@dataclass(frozen=True)
class CardExamined:
    """The card with this ticket was read."""

    ticket: int
    card: ExaminedCard


@dataclass(frozen=True)
class ExaminationFailed:
    """The card with this ticket could not be read."""

    ticket: int
    why: str


@dataclass(frozen=True)
class Answered:
    """The user answered the question about the card with this ticket; an empty ``node`` means no."""

    ticket: int
    node: str = ""


@dataclass(frozen=True)
class CardWritten:
    """The writer of this slot's card ended with this report."""

    report: CardReport


@dataclass(frozen=True)
class CardNotWritten:
    """The writer of this slot's card did not start, because the card may not be written to."""

    why: str


SlotEvent = CardSeen | CardGone | CardExamined | ExaminationFailed | Answered | CardWritten | CardNotWritten


@dataclass(frozen=True)
class ExamineCard:
    """Read the card, then report CardExamined or ExaminationFailed with this ticket."""

    slot: str
    disk: Disk
    ticket: int


@dataclass(frozen=True)
class WriteCard:
    """Write the node to the card, then report CardWritten or CardNotWritten."""

    slot: str
    card: Candidate
    node: str


SlotAction = ExamineCard | WriteCard


class Slots:
    """All slots of a station, and the completed nodes.

    ``completed`` are the nodes that already have a good card. At most ``writers`` cards are written at once.
    """

    def __init__(self, rules: StationRules, completed: Iterable[str] = (), writers: int = 1) -> None:
        self.rules, self.writers = rules, writers
        self.completed = set(completed)
        self.stopped = False
        self._slots = {name: Slot(name) for name in rules.slots}
        self._before: dict[str, tuple[object, Carried | None]] = {}
        self._tickets = 0

    def __getitem__(self, name: str) -> Slot:
        """The slot of this name; an unknown slot is empty."""
        return self._slots.get(name, Slot(name))

    def in_order(self) -> list[Slot]:
        """The slots in natural order."""
        return sorted(self._slots.values(), key=lambda slot: natural_order(slot.name))

    @property
    def remaining(self) -> list[str]:
        """The nodes that have no good card yet."""
        return [node for node in self.rules.nodes if node not in self.completed]

    @property
    def reserved(self) -> set[str]:
        """The nodes that are getting a card, or will after an answer."""
        return {slot.node for slot in self._slots.values() if slot.state in RESERVED}

    @property
    def next_node(self) -> str:
        """The node for the next card, unless another is chosen; empty when no card is needed."""
        return next(iter(self.free_for(None)), "")

    @property
    def is_over(self) -> bool:
        """Whether all nodes are completed and no card is being written."""
        return not self.remaining and not self._in(SlotState.WRITING)

    def question(self) -> Slot | None:
        """The slot that has waited longest for an answer; None when no question is open."""
        return min(self._in(SlotState.ASKING), key=lambda slot: slot.ticket, default=None)

    def free_for(self, slot: Slot | None) -> list[str]:
        """The nodes that the card in ``slot`` may get: without a card, and not reserved by another slot."""
        others = {other.node for other in self._in(*RESERVED) if slot is None or other.name != slot.name}
        return [node for node in self.remaining if node not in others]

    def begin(self, disks: Collection[Disk]) -> list[SlotAction]:
        """Record the cards that are present now. They are read, but not written while they stay."""
        actions: list[SlotAction] = []
        for disk in disks:
            if disk.has_medium:
                self._put(self._new(disk.slot, disk, SlotState.PRESENT))
                self._before[disk.slot] = (_likeness(disk), None)
                actions.append(ExamineCard(disk.slot, disk, self._tickets))
        return actions

    def stop(self) -> None:
        """Start no more cards. Cards that are being written continue."""
        self.stopped = True
        for slot in self._in(SlotState.WAITING):
            self._put(replace(slot, state=SlotState.REFUSED, node="", why=NOT_BEGUN))

    def handle(self, name: str, event: SlotEvent) -> list[SlotAction]:
        """Process an event of the slot with this name; return the actions that are due, in any slot."""
        slot, actions = self[name], list[SlotAction]()
        if self.stopped and isinstance(event, CardExamined | ExaminationFailed | Answered):
            return []
        match event:
            case CardSeen():
                actions += self._seen(slot, event)
            case CardGone():
                self._gone(slot, event.reader)
            case CardExamined():
                if slot.ticket == event.ticket:
                    self._examined(slot, event.card)
            case ExaminationFailed():
                if slot.ticket == event.ticket and slot.state is SlotState.EXAMINING:
                    self._put(replace(slot, state=SlotState.REFUSED, why=event.why))
            case Answered():
                if slot.ticket == event.ticket and slot.state is SlotState.ASKING:
                    self._answered(slot, event.node)
            case CardWritten():
                if slot.state is SlotState.WRITING:
                    self._written(slot, event.report)
            case CardNotWritten():
                if slot.state is SlotState.WRITING:
                    self._put(replace(slot, state=SlotState.REFUSED, node="", why=event.why))
        return [*actions, *self._start_writers()]

    def _in(self, *states: SlotState) -> list[Slot]:
        return [slot for slot in self._slots.values() if slot.state in states]

    def _put(self, slot: Slot) -> None:
        self._slots[slot.name] = slot

    def _new(self, name: str, disk: Disk, state: SlotState, since: float = 0.0) -> Slot:
        """A slot with a card that was not examined yet."""
        self._tickets += 1
        return Slot(name, disk, state, since, self._tickets)

    def _seen(self, slot: Slot, event: CardSeen) -> list[SlotAction]:
        same = slot.disk is not None and _is_same(slot, slot.disk, event.disk)
        if slot.state is SlotState.WRITING:
            if slot.disk is None or _medium(slot.disk) != _medium(event.disk):
                self._put(replace(slot, pulled=True))
        elif slot.state is SlotState.EMPTY or not same:
            self._put(self._new(slot.name, event.disk, SlotState.SETTLING, event.now))
        elif not self.stopped and (
            (slot.state is SlotState.SETTLING and event.now - slot.since >= SETTLED)
            or (
                slot.state is SlotState.SPARE and self.next_node
            )  # examine again: the first result may be outdated
        ):
            self._put(replace(slot, state=SlotState.EXAMINING, examined=None))
            return [ExamineCard(slot.name, event.disk, slot.ticket)]
        return []

    def _gone(self, slot: Slot, reader: Disk | None) -> None:
        if slot.state is SlotState.WRITING:
            self._put(replace(slot, pulled=True))
        elif reader is not None or slot.name in self.rules.slots:
            self._put(Slot(slot.name, reader))
        else:
            self._slots.pop(slot.name, None)  # the reader was unplugged

    def _examined(self, slot: Slot, card: ExaminedCard) -> None:
        carried, looks = card.candidate.carried, _likeness(card.candidate.disk)
        if slot.state is SlotState.PRESENT:
            self._before[slot.name] = (looks, carried)
            self._put(replace(slot, node=carried.node, cut_off=card.unfinished is not None))
        elif slot.state is SlotState.EXAMINING:
            returned = self._before.get(slot.name) in ((looks, None), (looks, carried))
            card = replace(card, returned=returned and bool(carried.node))
            decision = decide(card, self.rules, self.completed, self.reserved)
            self._put(
                replace(
                    slot,
                    state=_AFTER[decision.ruling],
                    examined=card,
                    node=decision.node,
                    why=decision.why,
                )
            )

    def _answered(self, slot: Slot, node: str) -> None:
        if node in self.free_for(slot):
            self._put(replace(slot, state=SlotState.WAITING, node=node, why=""))
        else:
            self._put(replace(slot, state=SlotState.REFUSED, node="", why=DECLINED))

    def _start_writers(self) -> list[SlotAction]:
        """Start to write the waiting cards, in the order in which they were inserted."""
        actions: list[SlotAction] = []
        for slot in sorted(self._in(SlotState.WAITING), key=lambda slot: slot.ticket):
            if len(self._in(SlotState.WRITING)) >= self.writers:
                break
            assert slot.examined is not None, "only an examined card waits"
            self._before.pop(slot.name, None)
            self._put(replace(slot, state=SlotState.WRITING))
            actions.append(WriteCard(slot.name, slot.examined.candidate, slot.node))
        return actions

    def _written(self, slot: Slot, report: CardReport) -> None:
        if slot.pulled and report.done:  # another card may have answered the last reads
            report = replace(
                report, verdict=Verdict.FAILED, error=f"{report.device}: {PULLED}", problem=PULLED
            )
        state = SlotState.DONE if report.done else SlotState.FAILED
        if report.done:
            self.completed.add(slot.node)
        self._put(replace(slot, state=state, report=report, why=report.problem))


_AFTER = {
    Ruling.REFUSE: SlotState.REFUSED,
    Ruling.SPARE: SlotState.SPARE,
    Ruling.ASK: SlotState.ASKING,
    Ruling.WRITE: SlotState.WAITING,
}


def _is_same(slot: Slot, before: Disk, now: Disk) -> bool:
    """Whether the slot has the same card as before.

    A card that was there when the station began stays the same while its medium does. If it was inserted just
    before, udev reports serial and model of its reader only after that.
    """
    if slot.state is SlotState.PRESENT:
        return _medium(before) == _medium(now)
    return before.identity == now.identity


def _medium(disk: Disk) -> tuple[object, ...]:
    """The values that change only with the medium; udev may report serial and model later."""
    return (disk.number, disk.size, disk.diskseq)


def _likeness(disk: Disk) -> tuple[object, ...]:
    """The values that identify a card that appears again; the kernel reports a new medium after a reset."""
    return (disk.size, disk.serial, disk.model)
