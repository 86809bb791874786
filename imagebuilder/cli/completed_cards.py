"""The nodes that have a card already: `piimg flash` and `piimg station` keep them in the same file."""

from collections.abc import Iterator, Mapping, Sequence

from imagebuilder.card.report import CardReport
from imagebuilder.cli.session import Session
from imagebuilder.device.discovery import Disk
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message
from imagebuilder.history.store import key_of
from imagebuilder.station.completed import CompletedNode, CompletedNodes, completed_node


def completed_notes(session: Session, cards: Sequence[tuple[Disk, str, str]]) -> Iterator[str]:
    """A note for each node that has another card already.

    ``cards`` are the disks with the node for each, and the tree digest of what is written for it.
    """
    store = _store(session)
    known: Mapping[str, CompletedNode] = {}
    if store is not None:
        try:
            known = store.read()
        except PiimgError as error:
            yield error.message
    for disk, node, digest in cards:
        card = known.get(node)
        if card and card.key != key_of(disk) and card.image == digest:
            when = card.time[:16].replace("T", " ")
            yield f"{node} has a card already (of {when} UTC, in slot {card.slot}): this will be another one"


def remember_completed(
    session: Session, cards: Sequence[tuple[Disk, str, str]], reports: Sequence[CardReport]
) -> None:
    """Save the nodes whose cards are done; ``reports`` in the order of ``cards``.

    Nothing is raised, so that the verdicts are not lost.
    """
    store = _store(session)
    done = [(*card, report) for card, report in zip(cards, reports, strict=True) if card[1] and report.done]
    if store is None or not done:
        return
    try:
        with store.locked(session.cluster.name):
            nodes = store.kept(rewrite=[node for _, node, _, _ in done])
            for disk, node, digest, report in done:
                nodes[node] = completed_node(disk, report, digest)
            store.write(nodes)
    except (PiimgError, OSError) as error:
        reason = error.message if isinstance(error, PiimgError) else str(error)
        text = f"piimg station will not know of these cards: {reason}"
        session.reporter.emit(Message("warning", text))


def _store(session: Session) -> CompletedNodes | None:
    """The file of the manifest's cluster; None without a manifest, or with errors in it."""
    try:
        place = session.workspace if session.has_manifest else None
        return CompletedNodes(place.state, place.folder) if place else None
    except PiimgError:
        return None
