"""The drawing of the cluster: `piimg plan --graph`."""

from collections.abc import Iterator, Mapping, Sequence

from imagebuilder import graph
from imagebuilder.cli.history import events_of
from imagebuilder.cli.output import Line
from imagebuilder.cli.session import Session
from imagebuilder.history.written import cards_by_node, good_card
from imagebuilder.model import Node


def drawing(session: Session, nodes: Sequence[Node], form: str) -> Iterator[Line]:
    """The gateway and ``nodes``, as "text" or "svg", with the slots of their cards."""
    draw = graph.as_svg if form == "svg" else graph.as_text
    lines = (line for text in draw(session.cluster, nodes, _cards(session)) for line in text.splitlines())
    return map(Line, lines)


def _cards(session: Session) -> Mapping[str, str]:
    """Where the card of each node was written, by node; nodes without a good card are not in it."""
    found = {node: good_card(cards) for node, cards in cards_by_node(events_of(session)).items()}
    return {node: f"card in {card.begun.slot}" for node, card in found.items() if card and card.begun.slot}
