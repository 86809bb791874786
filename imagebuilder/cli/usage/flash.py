"""How ``piimg flash`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_devices
from imagebuilder.cli.file_path import FilePath
from imagebuilder.cli.options import (
    base_image,
    cards_at_once,
    images_folder,
    loop_devices_too,
    named_nodes,
    new_keys,
    not_verified,
    read_once_more,
    report_as_json,
    report_file,
    web_page,
    write_all,
)

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  sudo piimg flash /dev/sdb                  the node that it carries
  sudo piimg flash /dev/sdb --node worker2
  sudo piimg flash --all                     every node; asks for more cards
  sudo piimg flash --all --yes /dev/sdb /dev/sdc /dev/sdd
  sudo piimg flash /dev/sdb --image raspios.img.xz
  sudo piimg flash --all --reinsert          verify reinserted cards
  sudo piimg flash --all --web               with a page for browsers
"""


@command("flash", EXAMPLES)
@click.argument(
    "devices",
    nargs=-1,
    metavar="[DEVICE]...",
    type=FilePath(readable=False),
    shell_complete=complete_devices,
)
@named_nodes("The node for this card.")
@click.option("--all", "every", is_flag=True, help="A card for every node of the manifest.")
@click.option(
    "--image",
    type=FilePath(),
    help="Write this image, also packed (.xz .gz .zst .zip); by the block map beside it, else all of it.",
)
@base_image
@new_keys
@images_folder
@cards_at_once
@click.option(
    "--yes", "-y", is_flag=True, help="Do not ask, except for cards put in later. With --all: name the cards."
)
@write_all
@not_verified
@read_once_more
@click.option("--again", is_flag=True, help="Also write cards that were bad before, as a whole.")
@click.option(
    "--reinsert", is_flag=True, help="Wait until good cards are taken out and put in, then read them again."
)
@click.option("--eject", is_flag=True, help="Power down each good card when all are finished.")
@click.option(
    "--allow-fixed",
    "fixed",
    metavar="SERIAL",
    help="Accept the fixed USB disk with exactly this serial as a card, such as an SSD; asks for it again.",
)
@web_page
@loop_devices_too
@report_file("flash-report.json")
@report_as_json
@click.pass_obj
def flash(session: "Session", /, **given: Any) -> None:
    """Write cards, read them back from the cards themselves, and report which are good.

    Each node is prepared first if it is not up to date: what is written is what the manifest gives now.
    Shows which card gets which node, and asks first. Refuses any disk that is not a card or is in use. The
    partition table is written last: a card that is interrupted or not good does not boot.
    """
    from imagebuilder.cli.commands import flash as work

    work.flash(session, **given)
