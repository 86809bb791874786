"""`piimg verify`: does a card hold what it should?"""

import json
import threading
from pathlib import Path

import click

from imagebuilder.card.carried import carried
from imagebuilder.card.find import disk_at
from imagebuilder.card.holdings import holdings_of, read_host
from imagebuilder.card.report import document
from imagebuilder.card.source import open_source
from imagebuilder.card.write import FlashJob
from imagebuilder.card.write import verify as verify_card
from imagebuilder.cli.session import Session
from imagebuilder.cli.writing import SOME_FAILED, describe, node_source
from imagebuilder.errors import UsageError

EXAMPLES = """\b
Examples:
  sudo piimg verify /dev/sdb --node worker2
  sudo piimg verify /dev/sdb --image raspios.img
"""


@click.command("verify", epilog=EXAMPLES, short_help="Compare a card with what it should hold.")
@click.argument("device", type=click.Path(readable=False, path_type=Path))
@click.option("--node", "-n", metavar="NAME", help="The node whose image the card should hold.")
@click.option("--image", type=click.Path(path_type=Path), help="The file the card should hold.")
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the node images (default: build/ beside the manifest).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@click.pass_obj
def verify(
    session: Session,
    device: Path,
    node: str | None,
    image: Path | None,
    images: Path | None,
    as_json: bool,
) -> None:
    """Read every byte in use from a card, past the page cache, and compare; nothing is written.

    Exit code 0: the card is good; 3: it is not, and the first bad byte and its partition are told.
    """
    if (node is None) == (image is None):
        raise UsageError("what should the card hold?", "say --node NAME or --image FILE, one of the two")
    source = open_source(image) if image else node_source(images or session.images, node or "")
    disk = disk_at(device)
    points = [held.point for held in holdings_of(disk.name, read_host()) if held.point]
    if points:
        raise UsageError(
            f"{disk.node} is mounted and may change meanwhile", f"sudo umount {' '.join(points)}"
        )
    held = carried(disk.node).node
    if node and held and held != node:
        click.echo(f"note: {disk.node} carries {held}", err=True)
    report = verify_card(FlashJob(disk, source, node or ""), session.reporter, threading.Event())
    session.settle()
    click.echo(json.dumps(document([report]), indent=2) if as_json else describe([report]))
    if not report.done:
        raise click.exceptions.Exit(SOME_FAILED)
