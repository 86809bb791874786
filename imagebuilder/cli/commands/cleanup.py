"""`piimg cleanup`: free what a killed run left behind."""

from imagebuilder.cli.output import echo
from imagebuilder.system.cleanup import cleanup as free


def cleanup() -> None:
    """Run ``piimg cleanup``, called as ``usage/cleanup.py`` says."""
    freed = free()
    for line in freed:
        echo(line)
    if not freed:
        echo("nothing was left behind")
