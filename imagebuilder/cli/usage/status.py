"""How ``piimg status`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.options import base_image

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  piimg status
  piimg status --base my-base.img      with a base image of your own
  piimg status --json | jq -r '.nodes[] | select(.flash_again) | .node'
"""


@command("status", EXAMPLES)
@base_image
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def status(session: "Session", /, **given: Any) -> None:
    """Show what is prepared for each node, what was written to which card, and what changed since.

    Nothing is written, downloaded or asked. The cards are those of the history: they need not be in.
    """
    from imagebuilder.cli.commands import status as work

    work.status(session, **given)
