"""`piimg cards`: what is in the card slots."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from imagebuilder.cli.commands.cards_test import run_test
from imagebuilder.cli.completion import complete_devices
from imagebuilder.cli.flashing import WriteOptions
from imagebuilder.cli.format import size
from imagebuilder.cli.history import document, events_of
from imagebuilder.cli.options import loop_devices_too
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.session import Session
from imagebuilder.cli.tables import table
from imagebuilder.device.discovery import find_disks
from imagebuilder.device.inventory import Candidate, survey
from imagebuilder.device.reference import reference
from imagebuilder.errors import UsageError
from imagebuilder.history.store import Event, runs_of
from imagebuilder.history.warnings import past

EXAMPLES = """\b
Examples:
  piimg cards                        slots, disks, what speaks against writing
  sudo piimg cards --json            as data; and what each card carries
  sudo piimg cards --test /dev/sdb   does it hold what it says? Erases it
"""


@click.command("cards", epilog=EXAMPLES, short_help="List slots and cards, and what speaks against writing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@loop_devices_too
@click.option(
    "--test",
    "device",
    metavar="DEVICE",
    type=click.Path(readable=False, path_type=Path),
    shell_complete=complete_devices,
    help="Write and read back all of this card, which erases it: its real size and speed.",
)
@click.option("--yes", "-y", is_flag=True, help="With --test: do not ask.")
@click.pass_obj
def cards(session: Session, as_json: bool, virtual: bool, device: Path | None, yes: bool) -> None:
    """List the cards: slot, size, model, serial, the node each carries, and whether it may be written.

    Only looks, but for --test. With a USB reader, model and serial are the reader's: it tells nothing of the
    card. With a cluster manifest, warns of cards that failed before, or whose last run was interrupted.
    """
    if device is not None:
        run_test(session, device, WriteOptions(yes=yes, virtual=virtual), as_json)
        return
    if yes:
        raise UsageError("--yes belongs to --test", "nothing is asked without it")
    if as_json:
        echo_json(document_of(session, virtual))
        return
    found, events = survey(find_disks(virtual), virtual), events_of(session)
    if not found:
        echo("no card slots found; is the reader plugged in?", err=True)
        return
    heads = ("SLOT", "DEVICE", "SIZE", "MODEL", "SERIAL", "CARRIES", "WRITE")
    echo(table(heads, [_row(one) for one in found]))
    for one in found:
        for reason in one.refusals if one.disk.has_medium else ():
            echo(f"{one.disk.node}: {reason}")
        for note in one.notes:
            echo(f"{one.disk.node}: note: {note}")
        for warning in _warnings(one, events):
            echo(f"{one.disk.node}: warning: {warning}")


def _row(one: Candidate) -> tuple[str, ...]:
    disk = one.disk
    shown = size(disk.size) if disk.has_medium else "empty"
    desktop = [holding.point for holding in one.holdings if holding.desktop]
    may = "no" if one.refusals else f"yes, unmounting {', '.join(desktop)}" if desktop else "yes"
    return (disk.slot, str(disk.node), shown, disk.model, disk.serial, one.carried.node, may)


def _warnings(one: Candidate, events: Sequence[Event]) -> tuple[str, ...]:
    """What the history says of the card in a slot; nothing of an empty one."""
    return past(runs_of(events, one.disk), one.disk).warnings if one.disk.has_medium else ()


def document_of(session: Session, virtual: bool) -> Mapping[str, object]:
    """All cards, and what is known of them, as data for JSON."""
    found, events = survey(find_disks(virtual), virtual), events_of(session)
    return {"cards": [_document(one, events) for one in found]}


def _document(one: Candidate, events: Sequence[Event]) -> dict[str, object]:
    disk = one.disk
    return {
        **asdict(reference(disk)),
        "driver": disk.driver,
        "removable": disk.removable,
        "read_only": disk.read_only,
        "node": one.carried.node or None,
        "cluster": one.carried.cluster or None,
        "writable": not one.refusals,
        "refusals": [str(reason) for reason in one.refusals],
        "mounted": [holding.point for holding in one.holdings if holding.point],
        "notes": list(one.notes),
        "warnings": list(_warnings(one, events)),
        "history": document(events, disk) if disk.has_medium else [],
    }
