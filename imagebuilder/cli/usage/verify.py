"""How ``piimg verify`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_devices, complete_nodes
from imagebuilder.cli.file_path import FilePath
from imagebuilder.cli.options import base_image, images_folder, loop_devices_too, report_as_json

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  sudo piimg verify /dev/sdb                   with the node that it carries
  sudo piimg verify /dev/sdb --node worker2
  sudo piimg verify --all                      every card that is in
  sudo piimg verify /dev/sdb --image raspios.img
"""


@command("verify", EXAMPLES)
@click.argument("device", required=False, type=FilePath(readable=False), shell_complete=complete_devices)
@click.option("--all", "every", is_flag=True, help="Verify every card that is in.")
@click.option(
    "--node",
    "-n",
    metavar="NAME",
    shell_complete=complete_nodes,
    help="The node that the card should carry (default: the one it does).",
)
@click.option("--image", type=FilePath(), help="The image file to compare the card with.")
@base_image
@images_folder
@loop_devices_too
@report_as_json
@click.pass_obj
def verify(session: "Session", /, **given: Any) -> None:
    """Show whether a card was never flashed, never booted, or booted since, and whether it is good.

    If it was not booted, every byte in use is read from the card and compared; if it was booted, only the
    files of the overlay. Nothing is written. A card that was flashed from an older manifest is not mistaken
    for a damaged one. Exit code 0: the card is good, or was booted and its overlay did not change; else 3.
    """
    from imagebuilder.cli.commands import verify as work

    work.verify(session, **given)
