"""How ``piimg build`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.file_path import OutputPath
from imagebuilder.cli.options import base_image, named_nodes, new_keys

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  piimg build --node worker2             one node, into build/
  piimg build --all --jobs 2             every node, two at a time
  piimg build --all --base my-base.img   with a base image of your own
"""


@command("build", EXAMPLES)
@named_nodes("Build this node (repeatable).")
@click.option("--all", "every", is_flag=True, help="Build every node of the manifest.")
@base_image
@new_keys
@click.option(
    "--output",
    "-o",
    type=OutputPath(file_okay=False),
    help="The folder for the results (default: build/ beside the manifest).",
)
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 64),
    help="How many nodes at the same time (default: one for each processor).",
)
@click.option("--refresh", is_flag=True, help="Install packages anew, in their newest versions.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON document.")
@click.pass_obj
def build(session: "Session", /, **given: Any) -> None:
    """Build node images: NODE.img, NODE.bmap and NODE.json.

    The base image is fetched into the cache first if it is not there. A build never changes it. With root
    the root partition is mounted through a loop device, otherwise with fuse2fs; the result is the same.
    """
    from imagebuilder.cli.commands import build as work

    work.build(session, **given)
