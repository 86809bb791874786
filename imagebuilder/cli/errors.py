"""Errors as the user sees them."""

import contextlib

from imagebuilder.cli.output import echo
from imagebuilder.cli.progress.base import Renderer
from imagebuilder.errors import PiimgError
from imagebuilder.text import printable


def print_error(error: PiimgError | OSError, reporter: object = None) -> None:
    """Say what went wrong and what to do, on standard error; above the bars of ``reporter``."""
    if isinstance(error, OSError):
        error = PiimgError(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    said = [f"piimg: {printable(error.message, None)}"]
    said += [f"       {line}" for line in error.hint.splitlines()]
    if isinstance(reporter, Renderer):
        reporter.say("\n".join(said))
    else:
        with contextlib.suppress(OSError):  # a terminal that went away
            echo("\n".join(said), err=True)
