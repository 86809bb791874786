"""How ``piimg plan`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.options import named_nodes

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  piimg plan                          every node of the manifest
  piimg plan --node worker2           one node
  piimg plan --json | jq '.nodes[].entries[].path'
  piimg plan --matrix                 the jobs of a CI matrix
"""


@command("plan", EXAMPLES)
@named_nodes("Only this node (repeatable).")
@click.option(
    "--release", type=click.Choice(["bullseye", "bookworm", "trixie"]), help="Plan for this release."
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON document.")
@click.option(
    "--matrix", is_flag=True, help="Print the jobs of a CI matrix, one for each node. Needs no secret."
)
@click.pass_obj
def plan(session: "Session", /, **given: Any) -> None:
    """Show what each node gets: every entry with its mode, owner and layer, and what it overrides."""
    from imagebuilder.cli.commands import plan as work

    work.plan(session, **given)
