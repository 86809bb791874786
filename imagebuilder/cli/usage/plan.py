"""How ``piimg plan`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_against, complete_paths
from imagebuilder.cli.options import named_nodes

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  piimg plan                          the cluster on one screen
  piimg plan --full --node worker2    every entry of one node
  piimg plan --show /etc/hosts --node worker2
  piimg plan --diff                   what changed since nodes were prepared
  piimg plan --diff ../old/cluster.toml
  sudo piimg plan --diff /dev/sdb     what the card in the reader lacks
  piimg plan --graph svg > cluster.svg
  piimg plan --json | jq '.nodes[].entries[].path'
  piimg plan --matrix                 the jobs of a CI matrix
"""


@command("plan", EXAMPLES)
@named_nodes("Only this node (repeatable).")
@click.option(
    "--release", type=click.Choice(["bullseye", "bookworm", "trixie"]), help="Plan for this release."
)
@click.option("--full", is_flag=True, help="List every entry of each node.")
@click.option(
    "--show",
    "path",
    metavar="PATH",
    shell_complete=complete_paths,
    help="Print this file as the node gets it; secrets are masked.",
)
@click.option(
    "--diff",
    "against",
    metavar="[WITH]",
    is_flag=False,
    flag_value="",
    shell_complete=complete_against,
    help="Show what differs from the prepared or built nodes, or from WITH: a manifest, a folder of node "
    "images, an image, or a card.",
)
@click.option(
    "--graph",
    type=click.Choice(["text", "svg"]),
    is_flag=False,
    flag_value="text",
    help="Draw the cluster, as text (the default) or as SVG.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON document.")
@click.option(
    "--matrix", is_flag=True, help="Print the jobs of a CI matrix, one for each node. Needs no secret."
)
@click.option("--no-pager", is_flag=True, help="Do not use a pager ($PAGER, else less) at a terminal.")
@click.pass_obj
def plan(session: "Session", /, **given: Any) -> None:
    """Show what each node gets: a table, what all nodes have in common, and what is each node's own.

    Nothing is written. No root, no base image and no network is needed, except to read a card.
    """
    from imagebuilder.cli.commands import plan as work

    work.plan(session, **given)
