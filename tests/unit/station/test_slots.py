"""Every transition of a slot: in each state, what each event makes of it, and what is to be done."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from imagebuilder.card.report import Verdict
from imagebuilder.device.identity import Carried
from imagebuilder.device.policy import Reason, Refusal
from imagebuilder.station.policy import StationRules
from imagebuilder.station.slots import (
    DECLINED,
    NOT_BEGUN,
    PULLED,
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
from tests.unit.station.examples import CLUSTER, RULES, card, disk, reader, report

A, B = "usb 1-1", "usb 1-2"
ASK = replace(RULES, can_ask=True)
ONE_NODE = replace(ASK, nodes=("master",))
DISK, OTHER = disk(A, 1), disk(A, 2)  # two cards that come into slot A
EMPTY, FILES = card(DISK), card(DISK, lost="files (DCIM)")
TICKET = 1  # of the first card


def settling(rules: StationRules = ASK) -> Slots:
    slots = Slots(rules, writers=2)
    assert slots.handle(A, CardSeen(DISK, 0.0)) == []
    return slots


def examining(rules: StationRules = ASK) -> Slots:
    slots = settling(rules)
    assert slots.handle(A, CardSeen(DISK, SETTLED)) == [ExamineCard(A, DISK, TICKET)]
    return slots


def asking() -> Slots:
    slots = examining()
    assert slots.handle(A, CardExamined(TICKET, FILES)) == []
    return slots


def writing() -> Slots:
    slots = examining()
    assert slots.handle(A, CardExamined(TICKET, EMPTY)) == [WriteCard(A, EMPTY.candidate, "master")]
    return slots


def in_another(slots: Slots) -> Slots:
    """The same, with a card in slot B that is written."""
    other = disk(B, 9)
    slots.handle(B, CardSeen(other, 0.0))
    ((ticket, found),) = (
        (action.ticket, action.disk)
        for action in slots.handle(B, CardSeen(other, SETTLED))
        if isinstance(action, ExamineCard)
    )
    slots.handle(B, CardExamined(ticket, card(found)))
    assert slots[B].state is SlotState.WRITING
    return slots


def waiting() -> Slots:
    slots = in_another(Slots(ASK, writers=1))
    slots.handle(A, CardSeen(DISK, 0.0))
    slots.handle(A, CardSeen(DISK, SETTLED))
    assert slots.handle(A, CardExamined(2, EMPTY)) == []
    return slots


def spare() -> Slots:
    slots = in_another(Slots(ONE_NODE, writers=2))
    slots.handle(A, CardSeen(DISK, 0.0))
    slots.handle(A, CardSeen(DISK, SETTLED))
    assert slots.handle(A, CardExamined(2, EMPTY)) == []
    return slots


def refused() -> Slots:
    slots = examining()
    slots.handle(A, CardExamined(TICKET, card(DISK, refusals=(Refusal(Reason.READ_ONLY),))))
    return slots


def present() -> Slots:
    slots = Slots(ASK)
    assert slots.begin([DISK, reader(B)]) == [ExamineCard(A, DISK, TICKET)]
    return slots


def ended(verdict: Verdict) -> Slots:
    slots = writing()
    slots.handle(A, CardWritten(report(DISK, "master", verdict)))
    return slots


S = SlotState
STATES: dict[SlotState, Callable[[], Slots]] = {
    S.EMPTY: lambda: Slots(ASK),
    S.PRESENT: present,
    S.SETTLING: settling,
    S.EXAMINING: examining,
    S.SPARE: spare,
    S.ASKING: asking,
    S.WAITING: waiting,
    S.WRITING: writing,
    S.REFUSED: refused,
    S.DONE: lambda: ended(Verdict.GOOD),
    S.FAILED: lambda: ended(Verdict.BAD),
}
EVENTS: dict[str, Callable[[int], SlotEvent]] = {
    "soon": lambda ticket: CardSeen(DISK, SETTLED / 2),
    "seen": lambda ticket: CardSeen(DISK, SETTLED),
    "other": lambda ticket: CardSeen(OTHER, SETTLED),
    "gone": lambda ticket: CardGone(reader(A)),
    "unplugged": lambda ticket: CardGone(),
    "examined": lambda ticket: CardExamined(ticket, EMPTY),
    "files": lambda ticket: CardExamined(ticket, FILES),
    "not for us": lambda ticket: CardExamined(ticket, card(DISK, refusals=(Refusal(Reason.READ_ONLY),))),
    "stale": lambda ticket: CardExamined(ticket + 7, EMPTY),
    "unreadable": lambda ticket: ExaminationFailed(ticket, "cannot read it"),
    "stale failure": lambda ticket: ExaminationFailed(ticket + 7, "cannot read it"),
    "yes": lambda ticket: Answered(ticket, "master"),
    "no": Answered,
    "stale yes": lambda ticket: Answered(ticket + 7, "master"),
    "good": lambda ticket: CardWritten(report(DISK, "master")),
    "bad": lambda ticket: CardWritten(report(DISK, "master", Verdict.BAD)),
    "not written": lambda ticket: CardNotWritten("it is mounted"),
}
EXAMINES, WRITES = ExamineCard, WriteCard
Change = tuple[SlotState, type[ExamineCard] | type[WriteCard] | None]
NEW: dict[str, Change] = {"other": (S.SETTLING, None), "gone": (S.EMPTY, None), "unplugged": (S.EMPTY, None)}
"""What every card does that is not being written: it makes way for another one."""

CHANGES: dict[SlotState, dict[str, Change]] = {
    S.EMPTY: {**NEW, "soon": (S.SETTLING, None), "seen": (S.SETTLING, None)},
    S.PRESENT: NEW,
    S.SETTLING: {**NEW, "seen": (S.EXAMINING, EXAMINES)},
    S.EXAMINING: {
        **NEW,
        "examined": (S.WRITING, WRITES),
        "files": (S.ASKING, None),
        "not for us": (S.REFUSED, None),
        "unreadable": (S.REFUSED, None),
    },
    S.SPARE: NEW,
    S.ASKING: {**NEW, "yes": (S.WRITING, WRITES), "no": (S.REFUSED, None)},
    S.WAITING: NEW,
    S.WRITING: {"good": (S.DONE, None), "bad": (S.FAILED, None), "not written": (S.REFUSED, None)},
    S.REFUSED: NEW,
    S.DONE: NEW,
    S.FAILED: NEW,
}
"""What changes; every event that is not named for a state leaves it, and there is nothing to do."""


def about(slot: str, actions: list[SlotAction]) -> list[type[SlotAction]]:
    assert all(action.slot == slot for action in actions)
    return [type(action) for action in actions]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_each_event_in_each_state(state: SlotState, event: str) -> None:
    slots = STATES[state]()
    before = slots[A]
    assert before.state is state
    after, action = CHANGES[state].get(event, (state, None))
    assert about(A, slots.handle(A, EVENTS[event](before.ticket))) == ([action] if action else [])
    assert slots[A].state is after
    if after is S.EMPTY:
        assert slots[A].examined is None and slots[A].report is None
        assert not slots[A].node and not slots[A].why


@pytest.mark.parametrize("state", STATES)
def test_after_stop_nothing_begins(state: SlotState) -> None:
    for event in EVENTS.values():
        slots = STATES[state]()
        ticket = slots[A].ticket
        slots.stop()
        assert slots.handle(A, event(ticket)) == []
        assert slots.handle(B, CardWritten(report(disk(B, 9), "master", Verdict.BAD))) == []
        assert slots.handle(A, CardSeen(DISK, 100.0)) == slots.handle(A, CardSeen(DISK, 200.0)) == []


def test_a_card_that_waits_when_it_is_stopped() -> None:
    slots = waiting()
    slots.stop()
    assert (slots[A].state, slots[A].why) == (S.REFUSED, NOT_BEGUN)
    assert slots[B].state is S.WRITING  # it is awaited
    slots.handle(B, CardWritten(report(disk(B, 9), "master")))
    assert slots[B].state is S.DONE and slots.completed == {"master"}


@pytest.mark.parametrize("event", ["other", "gone", "unplugged"])
@pytest.mark.parametrize("verdict", Verdict)
def test_a_card_that_is_pulled_while_it_is_written(event: str, verdict: Verdict) -> None:
    """Its writer is awaited, whatever is in the slot meanwhile; whatever it reports, the node is not done."""
    slots = writing()
    assert slots.handle(A, EVENTS[event](TICKET)) == []
    assert slots[A].state is S.WRITING and slots.reserved == {"master"}
    slots.handle(A, EVENTS["seen"](TICKET))  # back again
    slots.handle(A, CardWritten(report(DISK, "master", verdict)))
    after = slots[A]
    assert after.state is S.FAILED and not slots.completed and slots.next_node == "master"
    assert after.report is not None and not after.report.done
    assert after.why == (PULLED if verdict in (Verdict.GOOD, Verdict.UNVERIFIED) else "it failed")


def test_a_serial_that_udev_finds_late_is_no_pulled_card() -> None:
    slots = writing()
    slots.handle(A, CardSeen(replace(DISK, serial="0x1234"), 5.0))
    slots.handle(A, CardWritten(report(DISK, "master")))
    assert slots[A].state is S.DONE and slots.completed == {"master"}


def test_the_card_that_waits_is_written_when_another_ends() -> None:
    for event in (CardWritten(report(disk(B, 9), "master")), CardNotWritten("it is mounted")):
        slots = waiting()
        assert slots[A].node == "worker1"
        assert slots.handle(B, event) == [WriteCard(A, EMPTY.candidate, "worker1")]


def test_cards_are_written_in_the_order_they_came() -> None:
    slots = in_another(Slots(ASK, writers=1))
    for number, name in enumerate(("usb 1-9", "usb 1-3"), 2):
        where = disk(name, number)
        slots.handle(name, CardSeen(where, 0.0))
        slots.handle(name, CardSeen(where, SETTLED))
        slots.handle(name, CardExamined(number, card(where)))
    (action,) = slots.handle(B, CardWritten(report(disk(B, 9), "master")))
    assert action.slot == "usb 1-9"


def test_a_spare_card_is_examined_again_when_it_is_needed() -> None:
    slots = spare()
    slots.handle(B, CardWritten(report(disk(B, 9), "master", Verdict.BAD)))
    assert slots.handle(A, CardSeen(DISK, SETTLED)) == [ExamineCard(A, DISK, 2)]
    assert slots.handle(A, CardExamined(2, EMPTY)) == [WriteCard(A, EMPTY.candidate, "master")]
    slots.handle(A, CardWritten(report(DISK, "master")))
    assert slots.is_over and slots.completed == {"master"}


def test_a_completed_node_is_not_written_again() -> None:
    slots = Slots(ASK, ["master"])
    slots.handle(A, CardSeen(DISK, 0.0))
    slots.handle(A, CardSeen(DISK, SETTLED))
    assert slots.handle(A, CardExamined(TICKET, EMPTY)) == [WriteCard(A, EMPTY.candidate, "worker1")]
    slots = Slots(ASK, ["master"])
    slots.handle(A, CardSeen(DISK, 0.0))
    slots.handle(A, CardSeen(DISK, SETTLED))
    assert slots.handle(A, CardExamined(TICKET, card(DISK, carried=Carried("master", CLUSTER)))) == []
    assert (slots[A].state, slots[A].why) == (S.REFUSED, "it holds master, which is done")


def test_what_is_answered() -> None:
    slots = in_another(asking())  # B gets worker1, for A may get master
    assert slots[B].node == "worker1" and slots.free_for(slots[A]) == ["master", "worker2"]
    slots.handle(A, Answered(TICKET, "worker1"))
    assert (slots[A].state, slots[A].why) == (S.REFUSED, DECLINED)
    slots = in_another(asking())
    assert slots.handle(A, Answered(TICKET, "worker2")) == [WriteCard(A, FILES.candidate, "worker2")]


def test_the_first_card_is_asked_about_first() -> None:
    slots = asking()
    second = disk(B, 3)
    slots.handle(B, CardSeen(second, 0.0))
    slots.handle(B, CardSeen(second, SETTLED))
    slots.handle(B, CardExamined(2, card(second, lost="files")))
    assert slots.question() == slots[A]
    slots.handle(A, CardGone(reader(A)))
    assert slots.question() == slots[B]
    slots.handle(B, Answered(2))
    assert slots.question() is None


def test_what_was_there_before() -> None:
    """It keeps what is known of it, and a card that looks the same in that slot is asked about."""
    node = card(DISK, carried=Carried("worker1", CLUSTER), unfinished=Carried("worker1", CLUSTER))
    slots = present()
    slots.handle(A, CardExamined(TICKET, node))
    assert (slots[A].state, slots[A].node, slots[A].cut_off) == (S.PRESENT, "worker1", True)
    slots.handle(A, CardGone(reader(A)))
    assert not slots[A].cut_off
    slots.handle(A, CardSeen(OTHER, 5.0))
    slots.handle(A, CardSeen(OTHER, 5.0 + SETTLED))
    slots.handle(
        A, CardExamined(slots[A].ticket, replace(node, candidate=replace(node.candidate, disk=OTHER)))
    )
    assert slots[A].state is S.ASKING and "looks like the one that was here before" in slots[A].why
    slots.handle(A, Answered(slots[A].ticket, "worker1"))
    assert slots[A].state is S.WRITING


def test_a_card_that_was_there_before_stays_when_udev_reports_its_reader_later() -> None:
    slots = present()
    later = replace(DISK, serial="0123", model="Card Reader")
    for now in (5.0, 5.0 + SETTLED):
        assert slots.handle(A, CardSeen(later, now)) == []
    slots.handle(A, CardExamined(TICKET, EMPTY))
    assert (slots[A].state, slots[A].ticket) == (S.PRESENT, TICKET)


def test_an_unreadable_card_that_was_there_before_stays() -> None:
    slots = present()
    slots.handle(A, ExaminationFailed(TICKET, "cannot read it"))
    assert (slots[A].state, slots[A].why) == (S.PRESENT, "")


def test_slots_without_a_reader() -> None:
    """One that was named stays; another goes with its reader."""
    slots = Slots(replace(ASK, slots={A: ""}))
    assert [slot.name for slot in slots.in_order()] == [A]
    slots.handle(A, CardSeen(DISK, 0.0))
    slots.handle(A, CardGone())
    assert [slot.name for slot in slots.in_order()] == [A] and slots[A].disk is None
    free = Slots(ASK)
    for name in ("usb 1-10", "usb 1-2"):
        free.handle(name, CardGone(reader(name)))
    assert [slot.name for slot in free.in_order()] == ["usb 1-2", "usb 1-10"]
    free.handle("usb 1-2", CardGone())
    assert [slot.name for slot in free.in_order()] == ["usb 1-10"]


def test_it_is_over_when_every_node_has_its_card() -> None:
    slots = Slots(ONE_NODE, ["master"])
    assert slots.is_over and not slots.next_node
    slots = ended(Verdict.GOOD)
    assert not slots.is_over and slots.remaining == ["worker1", "worker2"] and slots.next_node == "worker1"
