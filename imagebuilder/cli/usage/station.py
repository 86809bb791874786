"""How ``piimg station`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.options import (
    base_image,
    cards_at_once,
    images_folder,
    loop_devices_too,
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
  sudo piimg station                     any slot; asks where it is not clear
  sudo piimg station --node-from ask     asks which node each card gets
  sudo piimg station --slot "usb 1-1.1=master" --slot "usb 1-1.2=worker1"
  sudo piimg station --yes --slot "usb 1-1.1" --slot "usb 1-1.2"
  sudo piimg station --web               and show it at http://127.0.0.1:8180/
  sudo piimg station --web 0.0.0.0:8180 --web-control
"""


@command("station", EXAMPLES)
@click.option(
    "--slot",
    "slots",
    multiple=True,
    metavar="SLOT[=NODE]",
    help="Use only this slot of those that piimg cards shows (repeatable), for any or for this node.",
)
@click.option(
    "--node-from",
    type=click.Choice(["next", "ask", "slot"]),
    help="Which node a card gets: the next without a card, the one that you type, or that of its slot.",
)
@click.option("--yes", "-y", is_flag=True, help="Start without asking. The slots must be named.")
@click.option("--erase", is_flag=True, help="Erase any card without asking.")
@click.option("--again", is_flag=True, help="Write all nodes again, also those that are done.")
@base_image
@new_keys
@images_folder
@cards_at_once
@write_all
@not_verified
@read_once_more
@web_page
@click.option("--web-control", is_flag=True, help="Questions about cards can also be answered on the page.")
@loop_devices_too
@report_file("station-report.json")
@report_as_json
@click.pass_obj
def station(session: "Session", /, **given: Any) -> None:
    """Wait for cards, and write and read back each one as it is put in, until every node has a card.

    Cards that are in a slot at the start are left alone. A card that is empty or carries a node of the
    cluster gets a node without a question; any other is asked about first. Finished nodes are remembered.
    """
    from imagebuilder.cli.commands import station as work

    work.station(session, **given)
