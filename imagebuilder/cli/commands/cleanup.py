"""`piimg cleanup`: free what a killed run left behind."""

import click

from imagebuilder.cli.output import echo
from imagebuilder.system.cleanup import cleanup as free

EXAMPLES = """\b
Example:
  sudo piimg cleanup
"""


@click.command("cleanup", epilog=EXAMPLES, short_help="Free what a killed piimg left behind.")
def cleanup() -> None:
    """Free the loop devices, mounts, folders and unfinished files of a killed piimg.

    Resources of a running piimg and of other programs are not touched.
    """
    freed = free()
    for line in freed:
        echo(line)
    if not freed:
        echo("nothing was left behind")
