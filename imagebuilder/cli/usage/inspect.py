"""How ``piimg inspect`` is called."""

from typing import Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_images
from imagebuilder.cli.file_path import FilePath

EXAMPLES = """\b
Examples:
  piimg inspect build/worker2.img   a node image
  sudo piimg inspect /dev/sdb       a card, new or used in a Raspberry Pi
"""


@command("inspect", EXAMPLES)
@click.argument(
    "subject",
    metavar="IMAGE|DEVICE",
    type=FilePath(readable=False),
    shell_complete=complete_images,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def inspect(**given: Any) -> None:
    """Show what is on an image or a card: release, node, partitions, first-boot results.

    An image file that is not a node image is examined as a base image, and problems are shown with what to
    do. Only reads; mounts nothing.
    """
    from imagebuilder.cli.commands import inspect as work

    work.inspect(**given)
