"""`piimg cards`: list the card slots and the cards in them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from imagebuilder.cli.commands.cards_test import run_test
from imagebuilder.cli.flashing import WriteOptions
from imagebuilder.cli.format import size
from imagebuilder.cli.history import cluster_of, document, events_of
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.session import Session
from imagebuilder.cli.tables import table
from imagebuilder.device.discovery import find_disks
from imagebuilder.device.inventory import Candidate, survey
from imagebuilder.device.reference import reference
from imagebuilder.errors import UsageError
from imagebuilder.history.store import Event, runs_of
from imagebuilder.history.warnings import past


def cards(session: Session, as_json: bool, virtual: bool, device: Path | None, yes: bool) -> None:
    """Run ``piimg cards``, called as ``usage/cards.py`` says."""
    if device is not None:
        run_test(session, device, WriteOptions(yes=yes, virtual=virtual), as_json)
        return
    if yes:
        raise UsageError("--yes belongs to --test", "use them together, or omit --yes")
    if as_json:
        echo_json(document_of(session, virtual))
        return
    found, events = survey(find_disks(virtual), virtual), events_of(session)
    if not found:
        echo("no card slots found; is the reader plugged in?", err=True)
        return
    heads = ("SLOT", "DEVICE", "SIZE", "MODEL", "SERIAL", "CARRIES", "WRITE")
    echo(table(heads, [_row(card, cluster_of(session)) for card in found]))
    for card in found:
        for reason in card.refusals if card.disk.has_medium else ():
            echo(f"{card.disk.node}: {reason}")
        for note in card.notes:
            echo(f"{card.disk.node}: note: {note}")
        for warning in _warnings(card, events):
            echo(f"{card.disk.node}: warning: {warning}")


def _row(card: Candidate, cluster: str) -> tuple[str, ...]:
    disk = card.disk
    shown = size(disk.size) if disk.has_medium else "empty"
    desktop = [holding.point for holding in card.holdings if holding.desktop]
    may = "no" if card.refusals else f"yes, unmounting {', '.join(desktop)}" if desktop else "yes"
    return (disk.slot, str(disk.node), shown, disk.model, disk.serial, card.carries(cluster), may)


def _warnings(card: Candidate, events: Sequence[Event]) -> tuple[str, ...]:
    """Warnings from the history about the card in a slot; none for an empty slot."""
    return past(runs_of(events, card.disk), card.disk).warnings if card.disk.has_medium else ()


def document_of(session: Session, virtual: bool) -> Mapping[str, object]:
    """All cards as data for JSON."""
    found, events = survey(find_disks(virtual), virtual), events_of(session)
    return {"cards": [_document(card, events) for card in found]}


def _document(card: Candidate, events: Sequence[Event]) -> dict[str, object]:
    disk = card.disk
    return {
        **asdict(reference(disk)),
        "driver": disk.driver,
        "removable": disk.removable,
        "read_only": disk.read_only,
        "node": card.carried.node or None,
        "cluster": card.carried.cluster or None,
        "unfinished": card.unfinished.named() if card.unfinished else None,
        "writable": not card.refusals,
        "refusals": [str(reason) for reason in card.refusals],
        "mounted": [holding.point for holding in card.holdings if holding.point],
        "notes": list(card.notes),
        "warnings": list(_warnings(card, events)),
        "history": document(events, disk) if disk.has_medium else [],
    }
