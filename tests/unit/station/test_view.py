"""The lines of a station: what is said of the next card, and when."""

import io
from types import SimpleNamespace
from typing import Any, cast

from imagebuilder.cli.keyboard import Keys
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.station_view import StationView
from imagebuilder.history.warnings import past
from imagebuilder.station.policy import StationRules
from imagebuilder.station.slots import (
    SETTLED,
    Answered,
    CardExamined,
    CardSeen,
    ExamineCard,
    Slots,
    SlotState,
)
from imagebuilder.station.station import Station
from tests.unit.station.examples import CLUSTER, NODES, card, disk

A = "usb 1-1"
RULES = StationRules(CLUSTER, NODES, can_ask=True)


def next_of(slots: Slots) -> Any:
    """The next node, as programs and the page are given it; and that the line for all says the same."""
    lines: list[tuple[str, Any]] = []

    class Recorded(Plain):
        def note(self, line: str, title: str, text: str, data: Any = None) -> None:
            if data and "next" in data:
                lines.append((text, data["next"]))

    station = cast("Station", SimpleNamespace(slots=slots))
    with Recorded(io.StringIO()) as renderer:
        StationView(renderer, station, Keys(None), lambda disk: past([], disk)).show()
    ((text, found),) = lines
    assert text.partition(" (")[0] == "0 of 3 nodes are done" + (f", next is {found}" if found else "")
    return found


def test_the_next_card_has_no_node_while_another_may_take_it() -> None:
    """Whoever labels a card by it would label it wrongly."""
    slots, here = Slots(RULES, writers=2), disk(A, 1)
    assert next_of(slots) == "master"
    slots.handle(A, CardSeen(here, 0.0))
    assert (slots[A].state, next_of(slots)) == (SlotState.SETTLING, None)
    (action,) = slots.handle(A, CardSeen(here, SETTLED))
    assert isinstance(action, ExamineCard)
    assert (slots[A].state, next_of(slots)) == (SlotState.EXAMINING, None)
    slots.handle(A, CardExamined(action.ticket, card(here, lost="it holds photos")))
    assert (slots[A].state, next_of(slots)) == (SlotState.ASKING, None)
    slots.handle(A, Answered(action.ticket, "master"))
    assert (slots[A].state, next_of(slots)) == (SlotState.WRITING, "worker1")
