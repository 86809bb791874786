"""The policy of a station: which cards are written, which need an answer, which node each gets. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from imagebuilder.device.identity import Carried
from imagebuilder.device.inventory import Candidate
from imagebuilder.device.policy import in_words
from imagebuilder.errors import UsageError

NodeFrom = Literal["next", "ask", "slot"]
"""Which node a card gets: the next one without a card, the answer of the user, or the node of its slot."""


class Ruling(StrEnum):
    """What to do with a card."""

    WRITE = "write"
    ASK = "ask"  # write it if the user agrees
    SPARE = "spare"  # every node has a card or is getting one
    REFUSE = "refuse"  # leave it alone


@dataclass(frozen=True)
class StationRules:
    """The rules of a station, from its options.

    ``nodes`` are the nodes of ``cluster`` in order. ``slots`` are the only slots that are used, each with its
    node when ``node_from`` is "slot"; empty: all slots. ``erase``: a card with data is erased without a
    question. ``can_ask``: a user can answer questions.
    """

    cluster: str
    nodes: tuple[str, ...]
    node_from: NodeFrom = "next"
    slots: Mapping[str, str] = field(default_factory=dict)
    erase: bool = False
    can_ask: bool = False


@dataclass(frozen=True)
class ExaminedCard:
    """A card that was inserted and read.

    ``lost`` is the data that would be lost if it were erased. ``unfinished`` is the node whose writing was
    interrupted. ``returned``: it looks like the card that was in its slot when the station began. ``beside``
    is the reason why it is not the card of the node in its identity file, or has other data. ``bad``: this
    same card was bad before.
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
    """The rules from the options of a station. ``slots`` are pairs of a slot and its node, or "".

    Raises UsageError for contradictory options.
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
            "either every slot has its node, or none",
            'give each slot a node, such as --slot "usb 1-1=worker1"',
        )
    if chosen == "slot":
        nodes = [node for node in nodes if node in given]  # the others have no slot
    return StationRules(cluster, tuple(nodes), chosen, named, erase, can_ask)


def decide(
    card: ExaminedCard, rules: StationRules, completed: Collection[str], reserved: Collection[str]
) -> Decision:
    """Decide what to do with a card. ``completed`` nodes have a good card, ``reserved`` ones are getting one.

    A card with refusals, or with a completed node, is never written. Only an empty card, or a card with a
    node of this cluster and no other data, is written without a question.
    """
    candidate, carried = card.candidate, card.candidate.carried
    same_cluster = carried.cluster == rules.cluster and bool(carried.node)
    if candidate.refusals:
        return Decision(Ruling.REFUSE, why=in_words(candidate.refusals))
    if same_cluster and carried.node in completed:
        return Decision(Ruling.REFUSE, carried.node, f"it holds {carried.node}, which is done")
    free = [node for node in rules.nodes if node not in completed and node not in reserved]
    if rules.node_from == "slot":
        node = rules.slots.get(candidate.disk.slot, "")
        if node in completed or node not in rules.nodes:
            return Decision(Ruling.REFUSE, why=f"{node}, the node of this slot, is done")
        node = node if node in free else ""
    else:
        former = _former_node(card, rules)
        node = former if former in free else next(iter(free), "")
    if not node:
        return Decision(Ruling.SPARE)
    why = _why_ask(card, rules, same_cluster)
    if why and not rules.can_ask:
        return Decision(Ruling.REFUSE, why=f"{why}, and no user can be asked")
    return Decision(Ruling.ASK if why else Ruling.WRITE, node, why)


def _former_node(card: ExaminedCard, rules: StationRules) -> str:
    """The node of this cluster that the card has, or that was being written to it; else empty."""
    content = card.unfinished or card.candidate.carried
    return content.node if content.cluster == rules.cluster else ""


def _why_ask(card: ExaminedCard, rules: StationRules, same_cluster: bool) -> str:
    """What the user must agree to before the card is erased; empty when no question is needed."""
    if card.bad:
        return card.bad
    if card.returned and not rules.erase:
        return f"it carries {card.candidate.carried.node}, and looks like the one that was here before"
    carried = card.candidate.carried
    if same_cluster and card.beside and not rules.erase:
        return f"it says that it carries {carried.node}, but {card.beside}"
    if card.lost and not same_cluster and not rules.erase:
        cluster = carried.cluster or "an unknown cluster"
        return f"it carries {carried.node} of {cluster}" if carried.node else f"it holds {card.lost}"
    return "choose its node" if rules.node_from == "ask" else ""
