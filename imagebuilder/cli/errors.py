"""Printing errors for the user."""

import contextlib

from imagebuilder.cli.output import echo
from imagebuilder.cli.progress.base import Renderer
from imagebuilder.errors import PiimgError
from imagebuilder.system.space import is_full
from imagebuilder.text import printable


def print_error(error: PiimgError | OSError, reporter: object = None) -> None:
    """Print what is wrong and what to do, on standard error; above the bars of ``reporter``."""
    if isinstance(error, OSError):
        hint = "free some space there, or use another folder" if is_full(error) else ""
        text = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        error = PiimgError(text, hint)
    lines = [f"piimg: {printable(error.message, None)}"]
    lines += [f"       {line}" for line in error.hint.splitlines()]
    if isinstance(reporter, Renderer):
        reporter.say("\n".join(lines))
    else:
        with contextlib.suppress(OSError):  # the terminal was lost
            echo("\n".join(lines), err=True)
