"""Assign nodes to cards. Pure and deterministic."""

from collections.abc import Sequence
from dataclasses import dataclass

from imagebuilder.device.discovery import slot_order
from imagebuilder.device.inventory import Candidate


@dataclass(frozen=True)
class Pairing:
    """``pairs`` of node and card in the order of the nodes; ``remaining`` are the nodes without a card.

    ``notes`` are shown to the user before the question.
    """

    pairs: tuple[tuple[str, Candidate], ...]
    remaining: tuple[str, ...]
    notes: tuple[str, ...]


def pair(nodes: Sequence[str], cards: Sequence[Candidate], cluster: str = "") -> Pairing:
    """Assign a card to each of ``nodes``, in this order, as long as there are cards.

    A card that carries one of the nodes (of ``cluster``), or was cut off while it got one, keeps it. The
    others are taken in the order of their slots. When two carry the same node, the first slot keeps it, and a
    note says so.
    """
    ordered = sorted(cards, key=lambda card: slot_order(card.disk))
    taken: dict[str, Candidate] = {}
    notes: list[str] = []
    for card in ordered:
        node = _kept(card, nodes, cluster)
        if node in taken:
            first = taken[node].disk.slot
            notes.append(f"{first} and {card.disk.slot} both carry {node}: {first} keeps it")
        elif node:
            taken[node] = card
    kept = [card.disk.number for card in taken.values()]
    others = (card for card in ordered if card.disk.number not in kept)
    for node in nodes:
        if node not in taken and (other := next(others, None)) is not None:
            taken[node] = other
    return Pairing(
        tuple((node, taken[node]) for node in nodes if node in taken),
        tuple(node for node in nodes if node not in taken),
        tuple(notes),
    )


def _kept(card: Candidate, nodes: Sequence[str], cluster: str) -> str:
    """The node that the card carries, if it is one of ``nodes`` and not another cluster's."""
    foreign = cluster and card.meant.cluster and card.meant.cluster != cluster
    return card.meant.node if card.meant.node in nodes and not foreign else ""
