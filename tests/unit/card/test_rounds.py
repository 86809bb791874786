"""The rounds of `flash --all`, without devices: what is in the slots is given in their place."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.rounds import Rounds
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import NOTHING, Carried
from imagebuilder.device.inventory import Candidate
from imagebuilder.device.policy import Reason, Refusal
from imagebuilder.device.reference import reference
from imagebuilder.errors import PiimgError

NODES = ("master", "worker1", "worker2")


class Slots:
    """The looks at the slots, one after the other; the last one goes on for good."""

    def __init__(self, *looks: Sequence[Candidate] | Exception) -> None:
        self.looks, self.returned = list(looks), list[str]()
        self.rounds = Rounds(NODES, "picluster", self.look, lambda card: self.returned.append(card.disk.slot))

    def look(self) -> Sequence[Candidate]:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        return look

    def wait(self) -> list[str]:
        """The slots of the next cards; the test fails when they are waited for in vain."""
        left = 20

        def pause() -> None:
            nonlocal left
            left -= 1
            assert left, "it waits for ever"

        return [card.disk.slot for card in self.rounds.next_cards(pause)]


def card(number: int, medium: int = 1, carried: Carried = NOTHING, *refusals: Refusal) -> Candidate:
    disk = Disk(Path(f"/dev/none{number}"), f"8:{number}", 1 << 30, "usb", f"usb 1-{number}", diskseq=medium)
    return Candidate(disk, (), carried, refusals)


def empty(number: int) -> Candidate:
    there = card(number, 9)
    return replace(there, disk=replace(there.disk, size=0))


def written(one: Candidate, node: str, verdict: Verdict = Verdict.GOOD) -> CardReport:
    return CardReport(**vars(reference(one.disk)), node=node, image=f"{node}.img", verdict=verdict)


def after(one: Candidate, node: str, verdict: Verdict, *looks: Sequence[Candidate]) -> Slots:
    """Rounds of which the first was on one card."""
    slots = Slots([one], *looks)
    assert slots.rounds.look() == [one]
    slots.rounds.record([written(one, node, verdict)], {one.disk.slot: one.disk.identity})
    return slots


def test_nodes_go_to_cards_in_turn_until_all_have_one() -> None:
    slots, rounds_of = Slots([card(1), card(2)]), list[list[str]]()
    rounds = slots.rounds
    while rounds.remaining:
        medium = len(rounds_of) + 1
        pairs = rounds.pair([card(1, medium), card(2, medium)]).pairs
        rounds_of.append([node for node, _ in pairs])
        rounds.record([written(one, node) for node, one in pairs], {})
    assert rounds_of == [["master", "worker1"], ["worker2"]]
    assert [report.node for report in rounds.reports] == list(NODES)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_node_is_done_with_a_card_that_came_out_as_asked(verdict: Verdict) -> None:
    slots = after(card(1), "master", verdict, [empty(1)])
    done = verdict in (Verdict.GOOD, Verdict.UNVERIFIED)
    assert slots.rounds.remaining == list(NODES[done:])


def test_the_card_that_was_written_is_not_taken_again() -> None:
    slots = after(card(1), "master", Verdict.BAD, [card(1)], [card(1)], [empty(1)], [card(1, 2)])
    assert slots.wait() == ["usb 1-1"]
    assert slots.looks == [[card(1, 2)]]


def test_a_slot_that_was_seen_empty_may_get_the_same_card() -> None:
    """Before Linux 5.15 two media of one size are not told apart."""
    assert after(card(1), "master", Verdict.BAD, [empty(1)], [card(1)]).wait() == ["usb 1-1"]


def test_a_done_card_that_comes_back_is_reported_once_and_left_alone() -> None:
    back = card(1, 2, Carried("master", "picluster"))
    slots = after(card(1), "master", Verdict.GOOD, [back], [back], [back], [back, card(2)], [back, card(2)])
    assert slots.wait() == ["usb 1-2"]
    assert slots.returned == ["usb 1-1"]


def test_a_card_must_be_there_in_two_looks() -> None:
    slots = Slots([card(1)], [empty(1)], [card(1, 2)], [card(1, 3)], [card(1, 3)])
    assert slots.wait() == ["usb 1-1"]
    assert slots.looks == [[card(1, 3)]]


def test_a_card_that_may_not_be_written_is_waited_out() -> None:
    locked = card(1, 1, NOTHING, Refusal(Reason.READ_ONLY))
    slots = Slots([locked], [locked], [locked, card(2)], [locked, card(2)])
    assert slots.wait() == ["usb 1-2"]


@pytest.mark.parametrize("trouble", [OSError("EMFILE"), PiimgError("no udev")])
def test_trouble_of_the_host_is_waited_out(trouble: Exception) -> None:
    assert Slots(trouble, trouble, [card(1)], [card(1)]).wait() == ["usb 1-1"]
