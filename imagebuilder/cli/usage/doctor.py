"""How ``piimg doctor`` is called."""

from typing import Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.file_path import OutputPath

EXAMPLES = """\b
Examples:
  piimg doctor                what is missing for each use
  sudo piimg doctor flash     for one use, with the rights of root
  piimg doctor build --json   as JSON, for a script
  piimg doctor --report bug.json   write a file for a bug report
"""


@command("doctor", EXAMPLES)
@click.argument(
    "uses",
    nargs=-1,
    metavar="[USE]...",
    type=click.Choice(["build", "packages", "flash", "backup", "boot", "station", "web", "pdf"]),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--report",
    type=OutputPath(dir_okay=False),
    metavar="FILE",
    help="Write versions, cards, log and last report to this file, for a bug report.",
)
@click.pass_context
def doctor(context: click.Context, /, **given: Any) -> None:
    """Show for each use what is missing on this machine, and the command that fixes it.

    A USE needs something of the machine: build, packages, flash, backup, boot, station, web, pdf
    (default: all). Leaves nothing behind. Exit code 0 when nothing is missing, 1 otherwise. What is
    missing for packages, web and pdf, which not everybody uses, counts only if they are named.
    """
    from imagebuilder.cli.commands import doctor as work

    work.doctor(context, **given)
