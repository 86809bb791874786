"""The policy of a station: which cards are written, which are asked about, and which node each gets. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from imagebuilder.device.identity import Carried
from imagebuilder.device.inventory import Candidate
from imagebuilder.device.policy import in_words
from imagebuilder.errors import UsageError

NodeFrom = Literal["next", "ask", "slot"]
"""Which node a card gets: the next without a card, the one that is answered, or that of its slot."""


class Ruling(StrEnum):
    """What is to be done with a card."""

    WRITE = "write"
    ASK = "ask"  # write it if somebody agrees
    SPARE = "spare"  # every node has a card or gets one now
    REFUSE = "refuse"  # leave it alone


@dataclass(frozen=True)
class StationRules:
    """What a station does without being asked.

    ``nodes`` are those of ``cluster`` in their order. ``slots`` are the only ones that are used, each with
    its node where ``node_from`` is "slot"; none: all slots. ``erase``: a card with data on it is erased
    without a question; ``can_ask``: there is somebody to answer one.
    """

    cluster: str
    nodes: tuple[str, ...]
    node_from: NodeFrom = "next"
    slots: Mapping[str, str] = field(default_factory=dict)
    erase: bool = False
    can_ask: bool = False


@dataclass(frozen=True)
class ExaminedCard:
    """A card that was put in and read.

    ``lost`` is what somebody would miss if it were erased; ``unfinished`` what it was to become when piimg
    was cut off at it; ``returned`` that it looks like the one that was in its slot when the station began;
    ``beside`` why it is not just the card of the node that it says it carries; ``bad`` that this very card
    was bad before.
    """

    candidate: Candidate
    lost: str = ""
    unfinished: Carried | None = None
    returned: bool = False
    beside: str = ""
    bad: str = ""


@dataclass(frozen=True)
class Decision:
    """What to do with a card, the node, and why, in words."""

    ruling: Ruling
    node: str = ""
    why: str = ""


def rules_for(
    cluster: str,
    nodes: Sequence[str],
    slots: Sequence[tuple[str, str]],
    node_from: NodeFrom | None,
    *,
    erase: bool,
    can_ask: bool,
) -> StationRules:
    """The rules that the options of a station make: ``slots`` are pairs of a slot and its node, or "".

    Raises UsageError for options that contradict each other.
    """
    named = dict(slots)
    if len(named) < len(slots):
        raise UsageError("a slot was named twice", "name each slot once")
    given = [node for node in named.values() if node]
    for node in given:
        if node not in nodes:
            raise UsageError(f"the manifest has no node {node}", f"it has {', '.join(nodes)}")
    if len(set(given)) < len(given):
        raise UsageError("two slots are for the same node", "name each node once")
    chosen = node_from or ("slot" if given else "next")
    if (chosen == "slot") != bool(given) or (given and len(given) < len(named)):
        raise UsageError(
            "either every slot has its node, or none", 'name slots as in --slot "usb 1-1=worker1" for that'
        )
    if chosen == "slot":
        nodes = [node for node in nodes if node in given]  # no other can be written here
    return StationRules(cluster, tuple(nodes), chosen, named, erase, can_ask)


def decide(
    card: ExaminedCard, rules: StationRules, completed: Collection[str], reserved: Collection[str]
) -> Decision:
    """What to do with a card. ``completed`` nodes have a good card, ``reserved`` ones get one.

    A card is never written that may not be, or that holds a completed node. Only a card that holds
    nothing, or a node of this cluster and nothing else, is written without a question.
    """
    candidate, carried = card.candidate, card.candidate.carried
    ours = carried.cluster == rules.cluster and bool(carried.node)
    if candidate.refusals:
        return Decision(Ruling.REFUSE, why=in_words(candidate.refusals))
    if ours and carried.node in completed:
        return Decision(Ruling.REFUSE, carried.node, f"it holds {carried.node}, which is done")
    free = [node for node in rules.nodes if node not in completed and node not in reserved]
    if rules.node_from == "slot":
        node = rules.slots.get(candidate.disk.slot, "")
        if node in completed or node not in rules.nodes:
            return Decision(Ruling.REFUSE, why=f"{node}, which this slot is for, is done")
        node = node if node in free else ""
    else:
        former = _former_node(card, rules)
        node = former if former in free else next(iter(free), "")
    if not node:
        return Decision(Ruling.SPARE)
    why = _why_ask(card, rules, ours)
    if why and not rules.can_ask:
        return Decision(Ruling.REFUSE, why=f"{why}, and there is nobody to ask")
    return Decision(Ruling.ASK if why else Ruling.WRITE, node, why)


def _former_node(card: ExaminedCard, rules: StationRules) -> str:
    """The node of this cluster that the card had, or was to have; else empty."""
    had = card.unfinished or card.candidate.carried
    return had.node if had.cluster == rules.cluster else ""


def _why_ask(card: ExaminedCard, rules: StationRules, ours: bool) -> str:
    """What somebody must agree to before the card is erased; empty when nothing is to be asked."""
    if card.bad:
        return card.bad
    if card.returned and not rules.erase:
        return f"it carries {card.candidate.carried.node}, and looks like the one that was here before"
    had = card.candidate.carried
    if ours and card.beside and not rules.erase:
        return f"it says that it carries {had.node}, but {card.beside}"
    if card.lost and not ours and not rules.erase:
        whose = had.cluster or "no cluster that is known"
        return f"it carries {had.node} of {whose}" if had.node else f"it holds {card.lost}"
    return "which node it gets is up to you" if rules.node_from == "ask" else ""
