"""What becomes of a card that was put into a slot of a station. Pure: it only decides."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from imagebuilder.device.identity import Carried
from imagebuilder.device.inventory import Candidate
from imagebuilder.device.policy import in_words

NodeFrom = Literal["next", "ask", "slot"]
"""Where a card's node comes from: the next that has none yet, whoever is asked, or the slot it is in."""


class Stage(StrEnum):
    """Where a slot is."""

    EMPTY = "empty"
    ARRIVED = "arrived"  # a card was put in, and is looked at
    SPARE = "spare"  # every node has a card or gets one now; if one fails, this one is wanted
    ASKING = "asking"  # nothing is done until somebody has answered
    WRITING = "writing"
    LEFT = "left alone"  # it is not written to
    DONE = "done"  # written, and as good as was asked for
    FAILED = "failed"


@dataclass(frozen=True)
class Rules:
    """What a station does by itself.

    ``nodes`` are those of ``cluster`` in their order. ``slots`` are the only ones that are used, each with
    its node where ``node_from`` is "slot"; none: all slots. ``erase``: what somebody may miss is erased
    without a question; ``can_ask``: there is somebody to answer one.
    """

    cluster: str
    nodes: tuple[str, ...]
    node_from: NodeFrom = "next"
    slots: Mapping[str, str] = field(default_factory=dict)
    erase: bool = False
    can_ask: bool = False


@dataclass(frozen=True)
class Seen:
    """A card that was put in and looked at.

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
    """What to do with a card: the stage its slot comes to, the node, and why, in words."""

    stage: Stage
    node: str = ""
    why: str = ""


def decide(seen: Seen, rules: Rules, done: Collection[str], at_work: Collection[str]) -> Decision:
    """What is to be done with a card. ``done`` are nodes with a good card, ``at_work`` those that get one.

    A card is never written to that may not be, or that holds a node which is done. Without a question only
    such cards are that hold nothing, or a node of this cluster and nothing beside it.
    """
    card, carried = seen.candidate, seen.candidate.carried
    ours = carried.cluster == rules.cluster and bool(carried.node)
    if card.refusals:
        return Decision(Stage.LEFT, why=in_words(card.refusals))
    if ours and carried.node in done:
        return Decision(Stage.LEFT, carried.node, f"it holds {carried.node}, which is done")
    free = [node for node in rules.nodes if node not in done and node not in at_work]
    if rules.node_from == "slot":
        node = rules.slots.get(card.disk.slot, "")
        if node in done or node not in rules.nodes:
            return Decision(Stage.LEFT, why=f"{node}, which this slot is for, is done")
        node = node if node in free else ""
    else:
        wished = _wished(seen, rules)
        node = wished if wished in free else next(iter(free), "")
    if not node:
        return Decision(Stage.SPARE)
    why = _why_ask(seen, rules, ours)
    if why and not rules.can_ask:
        return Decision(Stage.LEFT, why=f"{why}, and there is nobody to ask")
    return Decision(Stage.ASKING if why else Stage.WRITING, node, why)


def _wished(seen: Seen, rules: Rules) -> str:
    """The node that the card had, or was to have."""
    had = seen.unfinished or seen.candidate.carried
    return had.node if had.cluster == rules.cluster else ""


def _why_ask(seen: Seen, rules: Rules, ours: bool) -> str:
    """What must be answered by somebody before the card is erased; empty when nothing must."""
    if seen.bad:
        return seen.bad
    if seen.returned and not rules.erase:
        return f"it carries {seen.candidate.carried.node}, and looks like the one that was here before"
    had = seen.candidate.carried
    if ours and seen.beside and not rules.erase:
        return f"it says that it carries {had.node}, but {seen.beside}"
    if seen.lost and not ours and not rules.erase:
        whose = had.cluster or "no cluster that is known"
        return f"it carries {had.node} of {whose}" if had.node else f"it holds {seen.lost}"
    return "it is yours to say which node it gets" if rules.node_from == "ask" else ""
