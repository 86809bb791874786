"""How ``piimg sheet`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.file_path import FilePath, OutputName

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  piimg sheet                      build/sheet.html: open it in a browser
  piimg sheet -o sheet.pdf         a PDF, if piimg doctor pdf is ready
  piimg sheet --paper letter       labels for Avery 5160 and 5167
  piimg sheet --via 192.168.1.50   where your home network has the gateway
"""


@command("sheet", EXAMPLES)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=OutputName(dir_okay=False, allow_dash=True),
    help="Save it here: a PDF if the name ends in .pdf, else HTML; - for standard output "
    "(default: build/sheet.html beside the manifest).",
)
@click.option(
    "--paper",
    type=click.Choice(["a4", "letter"]),
    default="a4",
    show_default=True,
    help="The paper of your printer. a4: labels Avery L7160 and L7651; letter: 5160 and 5167.",
)
@click.option(
    "--via",
    metavar="HOST[:PORT]",
    help="Where ssh reaches the gateway: a name or an address (default: GATEWAY.local).",
)
@click.option(
    "--report",
    type=FilePath(exists=True, dir_okay=False),
    help="The report of the batch to show (default: the newest of flash and station in build/).",
)
@click.pass_obj
def sheet(session: "Session", /, **given: Any) -> None:
    """Make a page of the cluster to look at and to print.

    It has the network as a drawing, the nodes, the first power-on step by step, the verdicts and
    rates of the last batch, and a label for each case and each card, with a QR code of its ssh.

    It is one file that needs nothing else, and contains no secret. No secret is asked for.
    """
    from imagebuilder.cli.commands import sheet as work

    work.sheet(session, **given)
