"""How ``piimg cards`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_devices
from imagebuilder.cli.file_path import FilePath
from imagebuilder.cli.options import loop_devices_too

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  piimg cards                        slots, disks, reasons for refusal
  sudo piimg cards --json            as JSON, with the node on each card
  sudo piimg cards --test /dev/sdb   test size and speed; erases the card
"""


@command("cards", EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@loop_devices_too
@click.option(
    "--test",
    "device",
    metavar="DEVICE",
    type=FilePath(readable=False),
    shell_complete=complete_devices,
    help="Erase this card: write and read all of it, and show its real size and speed.",
)
@click.option("--yes", "-y", is_flag=True, help="With --test: do not ask.")
@click.pass_obj
def cards(session: "Session", /, **given: Any) -> None:
    """List the cards: slot, size, model, serial, the node each carries, and whether it may be written.

    Only reads, except with --test. With a USB reader, model and serial are those of the reader. With a
    cluster manifest, warns about cards that failed before, or whose last run was interrupted.
    """
    from imagebuilder.cli.commands import cards as work

    work.cards(session, **given)
