"""How ``piimg boot`` is called."""

from typing import Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.file_path import FilePath, OutputName
from imagebuilder.cli.options import base_image, images_folder, named_nodes, new_keys

EXAMPLES = """\b
Examples:
  piimg boot --node worker2              boot it, and show what is wrong
  piimg boot --all                       the whole cluster on one switch
  piimg boot --all --report boot.html    the results as a page, too
  piimg boot --node worker2 --shell      log in and examine it
  piimg boot --node worker2 --console    watch it start
"""


@command("boot", EXAMPLES)
@named_nodes("Boot this node (repeatable).")
@click.option("--all", "every", is_flag=True, help="Boot every node, on one virtual switch.")
@click.option(
    "--machine",
    type=click.Choice(["virt", "raspi3b"]),
    default="virt",
    show_default=True,
    help="virt: quick, with a Debian kernel; raspi3b: with the image's own kernel.",
)
@click.option("--shell", is_flag=True, help="Log in instead of checking; the node is stopped afterwards.")
@click.option("--console", is_flag=True, help="Show the serial console instead of checking.")
@click.option("--keep", is_flag=True, help="After the checks, keep it running until Ctrl-C.")
@base_image
@new_keys
@images_folder
@click.option(
    "--identity",
    "-i",
    type=FilePath(exists=True, dir_okay=False),
    help="Your private SSH key (else found in ~/.ssh, your agent, the state folder).",
)
@click.option(
    "--report",
    metavar="FILE",
    type=OutputName(dir_okay=False, allow_dash=True),
    help="Save the results as an HTML page here, with what was measured; - for standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON document.")
@click.pass_context
def boot(context: click.Context, /, **given: Any) -> None:
    """Boot node images in QEMU and check that each is what the manifest says.

    The node images are not changed. Nothing that runs reaches the internet or your network.
    Exit code 0 when every check is good, 1 otherwise.
    """
    from imagebuilder.cli.commands import boot as work

    work.boot(context, **given)
