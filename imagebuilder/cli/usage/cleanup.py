"""How ``piimg cleanup`` is called."""

from imagebuilder.cli.command import command

EXAMPLES = """\b
Example:
  sudo piimg cleanup
"""


@command("cleanup", EXAMPLES)
def cleanup() -> None:
    """Free the loop devices, mounts, folders and unfinished files of a killed piimg.

    Resources of a running piimg and of other programs are not touched.
    """
    from imagebuilder.cli.commands import cleanup as work

    work.cleanup()
