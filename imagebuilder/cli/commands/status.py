"""`piimg status`: what is prepared, what is on which card, and what the manifest has changed since."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.session import Session
from imagebuilder.cli.status import CardStatus, ClusterStatus, NodeStatus, status_of
from imagebuilder.cli.tables import columns, fitted_table
from imagebuilder.device.reference import DiskRef
from imagebuilder.history.store import shown
from imagebuilder.image.recipe import in_words


def status(session: Session, base: str | None, as_json: bool) -> None:
    """Print the status of all nodes. Nothing is written."""
    found = status_of(session, base or "")
    if as_json:
        echo_json(_document(session.cluster.name, base or session.cluster.base, found))
    else:
        echo("\n".join(_lines(found)))


def _lines(found: ClusterStatus) -> Iterator[str]:
    heads = ("NODE", "PREPARED", "CARD", "WRITTEN", "CHANGED SINCE")
    rows = [[cell.split(", ") for cell in _row(node)] for node in found.nodes]
    yield from fitted_table(heads, rows, columns())
    again = [node.node for node in found.nodes if node.flash_again]
    never = [node.node for node in found.nodes if not node.cards]
    if found.unknown is not None:
        yield f"what is up to date is not known: {found.unknown.message}"
        yield from (f"    {line}" for line in found.unknown.hint.splitlines())
    if found.missing_keys is not None:
        yield found.missing_keys.message
        yield from (f"    {line}" for line in found.missing_keys.hint.splitlines())
    if never:
        yield f"not flashed yet: {', '.join(never)}"
    if again:
        how = f"DEVICE --node {again[0]}" if len(again) == 1 else "--all"
        yield f"to flash again: {', '.join(again)} (sudo piimg flash {how})"


def _row(node: NodeStatus) -> tuple[str, ...]:
    if not node.prepared:
        prepared = "no"
    elif node.up_to_date is None:
        prepared = "yes; not known whether up to date"
    else:
        prepared = "up to date" if node.up_to_date else f"outdated: {in_words(node.changes)}"
    if not node.cards:
        return (node.node, prepared, "", "never", "")
    newest = node.cards[0]
    begun = newest.card.begun
    where = f"{begun.slot}, serial {begun.serial}" if newest.card.certain and begun.serial else begun.slot
    when = shown(newest.card.time)
    if not newest.card.done:  # then it is not the card of the node
        return (node.node, prepared, "", f"{when}, {newest.card.verdict} in {where}", "")
    when += "" if newest.card.verdict == "good" else f", {newest.card.verdict}"
    changed = "not known" if newest.changed is None else in_words(newest.changed) or "nothing"
    return (node.node, prepared, where, when, changed)


def _document(cluster: str, base: str, found: ClusterStatus) -> dict[str, object]:
    return {
        "cluster": cluster,
        "base": base,
        "unknown": found.unknown.message if found.unknown else None,
        "missing_keys": found.missing_keys.message if found.missing_keys else None,
        "nodes": [
            {
                "node": node.node,
                "prepared": node.prepared,
                "up_to_date": node.up_to_date,
                "changes": [change.text for change in node.changes],
                "tree_digest": node.tree_digest or None,
                "cards": _cards(node.cards),
                "flash_again": node.flash_again,
            }
            for node in found.nodes
        ],
    }


def _cards(cards: Sequence[CardStatus]) -> list[dict[str, object]]:
    return [
        {
            **{name: value for name, value in asdict(card.card.begun).items() if name in _NAMES},
            "size": card.card.begun.size,
            "same_card": card.card.certain,
            "time": card.card.time,
            "verdict": card.card.verdict,
            "image": card.card.begun.image,
            "changed": None if card.changed is None else [change.text for change in card.changed],
        }
        for card in cards
    ]


_NAMES = frozenset(DiskRef.__dataclass_fields__)
