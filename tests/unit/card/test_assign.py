"""Nodes and cards are paired the same way every time; a card that carries a node keeps it."""

from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.card.assign import pair
from imagebuilder.card.rounds import fresh
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import Carried
from imagebuilder.device.inventory import Candidate

NODES = ("master", "worker1", "worker2", "worker3")


def slot(number: int, node: str = "", cluster: str = "", size: int = 1 << 30) -> Candidate:
    disk = Disk(Path(f"/dev/sd{number}"), f"8:{number}", size, "usb", f"usb 1-{number}", diskseq=number)
    return Candidate(disk, (), Carried(node, cluster), ())


def test_cards_are_taken_in_the_order_of_their_slots() -> None:
    pairing = pair(NODES, [slot(10), slot(2), slot(1), slot(3)])
    assert [(node, card.disk.slot) for node, card in pairing.pairs] == [
        ("master", "usb 1-1"),
        ("worker1", "usb 1-2"),
        ("worker2", "usb 1-3"),
        ("worker3", "usb 1-10"),
    ]


def test_a_card_keeps_its_node() -> None:
    pairing = pair(NODES, [slot(1), slot(2, "master"), slot(3, "worker1")])
    assert {node: card.disk.slot for node, card in pairing.pairs} == {
        "master": "usb 1-2",
        "worker1": "usb 1-3",
        "worker2": "usb 1-1",
    }
    assert pairing.remaining == ("worker3",)
    assert pairing.notes == ()


def test_two_cards_with_the_same_node_give_a_note() -> None:
    pairing = pair(NODES[:2], [slot(1, "worker1"), slot(2, "worker1")])
    assert {node: card.disk.slot for node, card in pairing.pairs} == {
        "worker1": "usb 1-1",
        "master": "usb 1-2",
    }
    assert pairing.notes == ("usb 1-1 and usb 1-2 both carry worker1: usb 1-1 keeps it",)


def test_another_clusters_node_of_the_same_name_is_nobodys() -> None:
    cards = [slot(1, "worker1", "theirs"), slot(2, "worker1", "ours")]
    pairing = pair(NODES[:2], cards, "ours")
    assert {node: card.disk.slot for node, card in pairing.pairs} == {
        "worker1": "usb 1-2",
        "master": "usb 1-1",
    }


CARDS = st.lists(st.tuples(st.integers(1, 30), st.sampled_from(("", *NODES, "stranger"))), max_size=8).map(
    lambda found: [slot(number, node) for number, node in dict(found).items()]
)


@given(CARDS, st.lists(st.sampled_from(NODES), unique=True, max_size=4), st.randoms(use_true_random=False))
def test_no_card_and_no_node_is_used_twice_or_lost(
    cards: list[Candidate], nodes: list[str], random: Random
) -> None:
    pairing = pair(nodes, cards)
    used = [card.disk.number for _, card in pairing.pairs]
    assert len(used) == len(set(used)) == min(len(cards), len(nodes))
    assert sorted([node for node, _ in pairing.pairs] + list(pairing.remaining)) == sorted(nodes)
    for card in cards:
        owner = next(
            (node for node, other in pairing.pairs if other.carried.node == node == card.carried.node), ""
        )
        assert owner == (card.carried.node if card.carried.node in nodes else "")
    random.shuffle(cards)
    assert pair(nodes, cards) == pairing


def test_a_card_counts_once_until_it_is_changed() -> None:
    done = {slot(1).disk.slot: slot(1).disk.identity}
    assert fresh([slot(1), slot(2)], done) == [slot(2)]
    empty = slot(1, size=0)
    assert fresh([empty], done) == []
    assert fresh([slot(1)], done) == [slot(1)]
