"""What holds of a station in whatever order cards come and go, answers are given, and writers end.

The machine is judged by a model that knows what lies in each slot and which promises are made of it.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imagebuilder.card.report import Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import NOTHING, Carried
from imagebuilder.device.policy import Reason, Refusal
from imagebuilder.station.policy import ExaminedCard, NodeFrom, StationRules
from imagebuilder.station.slots import (
    SETTLED,
    Answered,
    CardExamined,
    CardGone,
    CardNotWritten,
    CardSeen,
    CardWritten,
    ExaminationFailed,
    ExamineCard,
    SlotAction,
    SlotEvent,
    Slots,
    SlotState,
    WriteCard,
)
from tests.unit.station.examples import CLUSTER, NODES, card, disk, reader, report

NAMES = ("usb 1-1", "usb 1-2")
names, nodes, verdicts = st.sampled_from(NAMES), st.sampled_from(NODES), st.sampled_from(Verdict)


class Content(Enum):
    """What is on a card."""

    BLANK = "blank"
    FILES = "files"
    NODE = "the node worker1 of this cluster"
    LOCKED = "a card that is write-protected"


@dataclass
class Physical:
    """A card that lies in a slot. ``seen``: how many looks in a row found it there."""

    disk: Disk
    content: Content
    seen: int = 0
    was_there: bool = False  # when the station began
    agreed: str = ""  # the node that somebody said yes to

    @property
    def examined(self) -> ExaminedCard:
        match self.content:
            case Content.BLANK:
                return card(self.disk)
            case Content.FILES:
                return card(self.disk, lost="files")
            case Content.NODE:
                return card(self.disk, carried=Carried("worker1", CLUSTER), lost="files")
            case Content.LOCKED:
                return card(self.disk, carried=NOTHING, refusals=(Refusal(Reason.READ_ONLY),))


@dataclass
class Write:
    """A writer that is at work."""

    card: Physical
    node: str
    pulled: bool = False


class StationModel(RuleBasedStateMachine):
    """Cards, hands, a user and threads, all in any order."""

    @initialize(
        there=st.sets(names),
        node_from=st.sampled_from(["next", "ask"]),
        erase=st.booleans(),
        can_ask=st.booleans(),
        named=st.booleans(),
        writers=st.integers(1, 2),
        done=st.sets(nodes, max_size=1),
    )
    def begin(
        self,
        there: set[str],
        node_from: NodeFrom,
        erase: bool,
        can_ask: bool,
        named: bool,
        writers: int,
        done: set[str],
    ) -> None:
        used = dict.fromkeys(NAMES, "") if named else {}
        self.rules_used = StationRules(CLUSTER, NODES, node_from, used, erase, can_ask)
        self.slots = Slots(self.rules_used, done, writers)
        self.inside: dict[str, Physical | None] = dict.fromkeys(NAMES)
        self.cards: dict[int | None, Physical] = {}
        self.examining: list[ExamineCard] = []
        self.writing: dict[str, Write] = {}
        self.done, self.completions = set(done), Counter[str]()
        self.now, self.stopped = 0.0, False
        for name in sorted(there):
            self.inside[name] = self._new(name, Content.BLANK, was_there=True)
        self._take_over(
            self.slots.begin([one.disk for one in self.inside.values() if one is not None]), begin=True
        )

    @rule(name=names, content=st.sampled_from(Content))
    def put(self, name: str, content: Content) -> None:
        """Put a card in, and take out what was there: between two looks nobody sees that."""
        self.inside[name] = self._new(name, content)

    @rule(name=names)
    def take(self, name: str) -> None:
        self.inside[name] = None

    @rule(seconds=st.sampled_from([0.1, SETTLED, 5.0]), unplugged=st.booleans())
    def look(self, seconds: float, unplugged: bool) -> None:
        self.now += seconds
        for name, there in self.inside.items():
            for one in self.cards.values():
                if one.disk.slot == name:
                    one.seen = one.seen + 1 if one is there else 0
            if name in self.writing and self.writing[name].card is not there:
                self.writing[name].pulled = True
            if there is None:
                self._send(name, CardGone(None if unplugged else reader(name)))
                if name not in self.writing:
                    slot = self.slots[name]
                    assert slot.state is SlotState.EMPTY and not slot.node and not slot.why
                    assert slot.examined is None and slot.report is None and not slot.ticket
            else:
                self._send(name, CardSeen(there.disk, self.now))

    @rule(name=names, content=st.sampled_from(Content))
    def put_in_and_wait(self, name: str, content: Content) -> None:
        """What mostly happens: a card is put in, stays there, and is examined."""
        self.put(name, content)
        for _ in range(2):
            self.look(SETTLED, False)
        for action in [one for one in self.examining if one.slot == name]:
            self.examining.remove(action)
            self._examine(action)

    @rule(name=names, node=nodes)
    def agree(self, name: str, node: str) -> None:
        """Answer the question that is open, with yes."""
        if self.slots[name].state is SlotState.ASKING:
            self.answer(name, node, True)

    @precondition(lambda self: self.examining)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def examination_ends(self, data: st.DataObject, fails: bool) -> None:
        """Also one whose card is gone by now."""
        action = self.examining.pop(data.draw(st.integers(0, len(self.examining) - 1)))
        if fails:
            self._send(action.slot, ExaminationFailed(action.ticket, "cannot read it"))
        else:
            self._examine(action)

    @rule(name=names, node=nodes, yes=st.booleans())
    def answer(self, name: str, node: str, yes: bool) -> None:
        """Answer the question about a slot, whether there is one or not."""
        slot = self.slots[name]
        if yes and slot.state is SlotState.ASKING and slot.disk is not None:
            self.cards[slot.disk.diskseq].agreed = node
        self._send(name, Answered(slot.ticket, node if yes else ""))

    @rule(name=names, ticket=st.integers(0, 20), node=nodes)
    def late_answer(self, name: str, ticket: int, node: str) -> None:
        """An answer about a card that is gone."""
        if ticket != self.slots[name].ticket:
            self._send(name, Answered(ticket, node))

    @precondition(lambda self: self.writing)
    @rule(data=st.data(), verdict=verdicts)
    def writer_ends(self, data: st.DataObject, verdict: Verdict) -> None:
        name = data.draw(st.sampled_from(sorted(self.writing)))
        write = self.writing.pop(name)
        ended = report(write.card.disk, write.node, verdict)
        self._send(name, CardWritten(ended))
        slot = self.slots[name]
        if ended.done and not write.pulled:
            self.done.add(write.node)
            self.completions[write.node] += 1
            assert slot.state is SlotState.DONE
        else:
            assert slot.state is SlotState.FAILED and write.node not in self.slots.completed
            assert slot.report is not None and not slot.report.done

    @precondition(lambda self: self.writing)
    @rule(data=st.data())
    def writer_refuses(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.writing)))
        del self.writing[name]
        self._send(name, CardNotWritten("it is mounted"))
        assert self.slots[name].state is SlotState.REFUSED

    @precondition(lambda self: not self.stopped)
    @rule(really=st.sampled_from([False, False, False, True]))
    def stop(self, really: bool) -> None:
        if really:
            self.slots.stop()
            self.stopped = True

    @invariant()
    def every_node_is_completed_once(self) -> None:
        if hasattr(self, "slots"):
            assert self.slots.completed == self.done
            assert max(self.completions.values(), default=0) <= 1

    @invariant()
    def writers_and_slots_agree(self) -> None:
        if hasattr(self, "slots"):
            at_work = {slot.name for slot in self.slots.in_order() if slot.state is SlotState.WRITING}
            assert at_work == set(self.writing)

    def _new(self, name: str, content: Content, was_there: bool = False) -> Physical:
        number = len(self.cards) + 1
        self.cards[number] = Physical(disk(name, number), content, was_there=was_there)
        return self.cards[number]

    def _examine(self, action: ExamineCard) -> None:
        self._send(action.slot, CardExamined(action.ticket, self.cards[action.disk.diskseq].examined))

    def _send(self, name: str, event: SlotEvent) -> None:
        self._take_over(self.slots.handle(name, event))

    def _take_over(self, actions: list[SlotAction], begin: bool = False) -> None:
        for action in actions:
            assert not self.stopped
            if isinstance(action, ExamineCard):
                assert begin or self.cards[action.disk.diskseq].seen >= 2
                self.examining.append(action)
            else:
                self._begins(action)

    def _begins(self, action: WriteCard) -> None:
        written = self.cards[action.card.disk.diskseq]
        assert written.disk.slot == action.slot and written.seen >= 2 and not written.was_there
        assert written.content is not Content.LOCKED
        assert not (written.content is Content.NODE and "worker1" in self.done)
        asks = self.rules_used.node_from == "ask"
        if asks or (written.content is Content.FILES and not self.rules_used.erase):
            assert written.agreed == action.node and self.rules_used.can_ask
        assert action.node in NODES and action.node not in self.done
        assert action.node not in {write.node for write in self.writing.values()}
        assert action.slot not in self.writing and len(self.writing) < self.slots.writers
        self.writing[action.slot] = Write(written, action.node)


TestStationModel = StationModel.TestCase
TestStationModel.settings = settings(max_examples=250, stateful_step_count=30, deadline=None)
