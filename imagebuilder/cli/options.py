"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from imagebuilder.cli.completion import complete_bases, complete_nodes
from imagebuilder.cli.file_path import FilePath, OutputName
from imagebuilder.cli.optional_value import OptionalValue
from imagebuilder.errors import UsageError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

base_image = click.option(
    "--base",
    metavar="NAME|URL|FILE",
    shell_complete=complete_bases,
    help="The base image, instead of the manifest's.",
)
images_folder = click.option(
    "--images",
    type=FilePath(file_okay=False),
    help="Use the node images in this folder as they are, instead of preparing the nodes.",
)
new_keys = click.option(
    "--new-keys", is_flag=True, help="Make new keys where those that the cluster had are missing."
)
cards_at_once = click.option(
    "--jobs", "-j", type=click.IntRange(1, 256), help="How many cards at the same time (default: all)."
)
write_all = click.option("--full", is_flag=True, help="Write everything in use, without comparing first.")
not_verified = click.option(
    "--no-verify", is_flag=True, help="Do not read back; the verdict is then unverified."
)
read_once_more = click.option(
    "--paranoid", is_flag=True, help="After the last write, open the card again and read everything."
)
loop_devices_too = click.option("--virtual", is_flag=True, help="Count loop devices as cards.")
report_as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the report as one JSON document."
)

web_page = click.option(
    "--web",
    cls=OptionalValue,
    metavar="[ADDRESS:PORT]",
    bare="127.0.0.1",
    form="ADDRESS:PORT, such as 0.0.0.0:8180",
    pattern=r"[A-Za-z0-9.-]*:\d+|\[[0-9A-Fa-f:.]+\](:\d+)?|\d+(\.\d+){3}",
    help="Also show the run on a page for browsers, for this machine only unless an address is given"
    " (default: 127.0.0.1:8180).",
)


def refuse_both(paranoid: bool, no_verify: bool) -> None:
    """Raise UsageError when --paranoid and --no-verify are both given."""
    if paranoid and no_verify:
        raise UsageError("--paranoid and --no-verify exclude each other", "use one of them")


def named_nodes(about: str) -> Decorator:
    """``--node NAME``, repeatable; ``about`` is its help."""
    return click.option(
        "--node", "-n", "nodes", multiple=True, metavar="NAME", shell_complete=complete_nodes, help=about
    )


def report_file(name: str) -> Decorator:
    """``--report FILE``; ``name`` is the default file name."""
    return click.option(
        "--report",
        metavar="FILE",
        type=OutputName(dir_okay=False, allow_dash=True),
        help=f"Save the report here, - for standard output (default: build/{name} beside the manifest).",
    )
