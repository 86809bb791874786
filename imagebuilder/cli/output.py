"""The one place where commands print: nothing reaches the terminal that it would obey, but our own colours.

What comes from outside is made printable where it is taken in (text.py); this is the last line of defence,
for what a message quotes: a path, a name, an argument. Bars and notes have theirs in progress.py.
"""

import io
import json
import logging
from collections.abc import Sequence

import click

from imagebuilder.text import printable

SHOWN = logging.getLogger("imagebuilder.cli.shown")
"""What the user is shown on standard error, for the log."""


def log_shown(text: str, level: int = logging.INFO) -> None:
    """Log what the user is shown, line by line."""
    # Without a log, logging itself would print a warning on standard error.
    if SHOWN.hasHandlers() and SHOWN.isEnabledFor(level):
        for line in filter(None, text.splitlines()):
            SHOWN.log(level, "%s", line)


def terminal_text(text: str) -> str:
    """Lines of text as they may be sent to a terminal."""
    return printable(text, None, keep="\n\t")


def echo(text: str = "", *, err: bool = False, bold: bool = False, nl: bool = True) -> None:
    """Print lines of text, on standard error if ``err``."""
    shown = terminal_text(text)
    if err:
        log_shown(shown)
    click.echo(click.style(shown, bold=True) if bold else shown, err=err, nl=nl)


def json_text(document: object, indent: int | None = None) -> str:
    """A document as JSON in printable ASCII: whatever else is in its strings is escaped."""
    return json.dumps(document, indent=indent, default=str).replace("\x7f", "\\u007f")


def echo_json(document: object, indent: int | None = 2) -> None:
    """Print a document as JSON."""
    click.echo(json_text(document, indent))


def echo_usage(error: click.ClickException) -> None:
    """Print what click says of a wrong command line; it quotes what was typed."""
    said = io.StringIO()
    error.show(file=said)
    echo(said.getvalue(), err=True, nl=False)


def confirmed(question: str) -> bool:
    """Ask a yes-or-no question on standard error; no unless it is answered with yes."""
    return click.confirm(terminal_text(question), default=False, err=True)


def ask(
    question: str,
    choices: Sequence[str] | None = None,
    *,
    hidden: bool = False,
    otherwise: str | None = None,
) -> str:
    """Ask for a text on standard error: one of ``choices``, if given; not shown while typed if ``hidden``.

    ``otherwise`` is the answer when nothing is typed; without one it is asked again.
    """
    kind = click.Choice(choices) if choices else None
    answer: str = click.prompt(
        terminal_text(question), otherwise, type=kind, hide_input=hidden, show_default=False, err=True
    )
    return answer
