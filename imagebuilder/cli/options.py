"""Options that several commands have: the same words for the same thing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from imagebuilder.cli.completion import complete_nodes
from imagebuilder.errors import UsageError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

images_folder = click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the node images (default: build/ beside the manifest).",
)
cards_at_once = click.option(
    "--jobs", "-j", type=click.IntRange(1, 256), help="How many cards at once (default: all)."
)
write_all = click.option("--full", is_flag=True, help="Write all that is in use, without comparing first.")
not_verified = click.option(
    "--no-verify", is_flag=True, help="Do not read back. The verdict is then never good."
)
read_once_more = click.option(
    "--paranoid", is_flag=True, help="Read all once more after the last write, from the card opened anew."
)
loop_devices_too = click.option("--virtual", is_flag=True, help="Count loop devices as cards.")
report_as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the report as one JSON document."
)


def refuse_both(paranoid: bool, no_verify: bool) -> None:
    """Raise UsageError where reading back is both asked for twice and left out."""
    if paranoid and no_verify:
        raise UsageError("--paranoid and --no-verify exclude each other", "take one of them")


def named_nodes(about: str) -> Decorator:
    """``--node NAME``, as often as one likes; ``about`` is its help."""
    return click.option(
        "--node", "-n", "nodes", multiple=True, metavar="NAME", shell_complete=complete_nodes, help=about
    )


def report_file(name: str) -> Decorator:
    """``--report FILE``; ``name`` is that of the file where none is given."""
    return click.option(
        "--report",
        metavar="FILE",
        type=click.Path(dir_okay=False, allow_dash=True),
        help=f"Save the report here, - for standard output (default: {name} beside the node images).",
    )
