"""All printing of the commands: no control sequence reaches the terminal, except piimg's own styles.

Input from outside is made printable where it is read (text.py). This is the last line of defence, for text
that a message quotes: a path, a name, an argument. progress/ does the same for bars and notes.
"""

import io
import json
import logging
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any

import click

from imagebuilder.cli.pager import page
from imagebuilder.text import printable

SHOWN = logging.getLogger("imagebuilder.cli.shown")
"""The logger for output on standard error."""


_PREFIX = re.compile(r"(piimg: |note: |warning: |)")  # the following lines begin below the text after it
_NARROW = 20  # columns; narrower text is not wrapped


def log_shown(text: str, level: int = logging.INFO) -> None:
    """Log output for the user, line by line."""
    # Without a log, logging itself would print a warning on standard error.
    if SHOWN.hasHandlers() and SHOWN.isEnabledFor(level):
        for line in filter(None, text.splitlines()):
            SHOWN.log(level, "%s", line)


class Style(StrEnum):
    """How a line is shown at a terminal with colours."""

    PLAIN = "plain"
    HEAD = "head"
    PLACE = "place"  # where in a file
    ADDED = "added"
    REMOVED = "removed"


_STYLES: Mapping[Style, Mapping[str, Any]] = {
    Style.HEAD: {"bold": True},
    Style.PLACE: {"fg": "cyan"},
    Style.ADDED: {"fg": "green"},
    Style.REMOVED: {"fg": "red"},
}


@dataclass(frozen=True)
class Line:
    """One line of output, and its style."""

    text: str = ""
    style: Style = Style.PLAIN

    def shown(self, coloured: bool) -> str:
        """The line, made safe for a terminal: what is not printable is replaced, also a line end."""
        text = printable(self.text, None, keep="\t")
        return click.style(text, **_STYLES[self.style]) if coloured and self.style in _STYLES else text


def terminal_text(text: str) -> str:
    """Text made safe for a terminal."""
    return printable(text, None, keep="\n\t")


def fitted(text: str, stream: IO[str]) -> str:
    """``text`` wrapped at words to the width of the terminal ``stream``; unchanged for a pipe or a file.

    A line with columns (two spaces between words) stays, and so does a word longer than the terminal.
    """
    try:
        columns = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError):
        return text
    return "\n".join(_wrapped(line, columns) for line in text.split("\n")) if columns else text


def _wrapped(line: str, columns: int) -> str:
    content = line.lstrip(" ")
    if len(line) <= columns or "  " in content or "\t" in content:
        return line
    first = " " * (len(line) - len(content))
    prefix = _PREFIX.match(line)
    following = first or " " * len(prefix[0] if prefix else "")
    if columns < len(following) + _NARROW:
        return line
    wrapper = textwrap.TextWrapper(
        columns,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.wrap(content))


def echo(
    text: str = "", *, err: bool = False, bold: bool = False, nl: bool = True, logged: bool = True
) -> None:
    """Print lines of text, on standard error if ``err``; they are then logged, unless ``logged`` is False."""
    shown = terminal_text(text)
    if err:
        if logged:
            log_shown(shown)
        shown = fitted(shown, sys.stderr)
    click.echo(click.style(shown, bold=True) if bold else shown, err=err, nl=nl)


def in_colour(stream: IO[str]) -> bool:
    """Whether ``stream`` is shown in colour: a terminal, without $NO_COLOR (no-color.org) or TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def echo_lines(lines: Iterable[Line], *, paged: bool = False) -> None:
    """Print lines on standard output; with ``paged``, at a terminal, through the user's pager."""
    coloured = in_colour(sys.stdout)
    text = "".join(f"{line.shown(coloured)}\n" for line in lines)
    if not (paged and sys.stdout.isatty() and page(text)):
        click.echo(text, nl=False)


def echo_code(lines: Sequence[str]) -> None:
    """Print a QR code, dark on light, if standard error is a terminal that can show it. It is not logged."""
    stream = sys.stderr
    wide = not stream.isatty() or os.get_terminal_size(stream.fileno()).columns >= len(lines[0])
    if wide and stream.isatty() and stream.encoding.lower() == "utf-8" and os.environ.get("TERM") != "dumb":
        for line in lines:
            click.echo(click.style(line, fg="black", bg="bright_white"), err=True)


_COLOURS = {
    "good": "green",
    "unverified": "yellow",
    "interrupted": "yellow",
    "older": "yellow",
    "bad": "red",
    "failed": "red",
}
_VERDICT = re.compile(rf"\b({'|'.join(_COLOURS)})$", re.MULTILINE)


def echo_verdicts(text: str, *, err: bool = False) -> None:
    """Print a table with a verdict at the end of each line: in colour at a terminal, and then with a bell."""
    shown = terminal_text(text)
    if err:
        log_shown(shown)
    stream = sys.stderr if err else sys.stdout
    if in_colour(stream):
        shown = _VERDICT.sub(lambda found: click.style(found[1], fg=_COLOURS[found[1]], bold=True), shown)
    click.echo(shown, err=err)
    if stream.isatty():
        click.echo("\a", err=err, nl=False)


def json_text(document: object, indent: int | None = None) -> str:
    """A document as JSON in printable ASCII; other characters in strings are escaped."""
    return json.dumps(document, indent=indent, default=str).replace("\x7f", "\\u007f")


def echo_json(document: object, indent: int | None = 2) -> None:
    """Print a document as JSON."""
    click.echo(json_text(document, indent))


def echo_usage(error: click.ClickException) -> None:
    """Print click's message about a wrong command line, which quotes the user's text."""
    text = io.StringIO()
    error.show(file=text)
    echo(text.getvalue() + _node_meant(error), err=True, nl=False)


def _node_meant(error: click.ClickException) -> str:
    """What to write instead of a node's name without --node; empty for another error."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    extra = re.fullmatch(r"Got unexpected extra arguments? \(([\w. -]+)\)", error.message)
    if (
        context is None
        or extra is None
        or not any("--node" in param.opts for param in context.command.params)
    ):
        return ""
    nodes = " ".join(f"--node {name}" for name in extra[1].split())
    return f"A node is named with --node: {context.command_path} {nodes}\n"


def at_terminal() -> bool:
    """Whether questions can be asked: on standard error, and answered on standard input."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(question: str) -> bool:
    """Ask a yes-or-no question on standard error; the default is no."""
    return click.confirm(terminal_text(question), default=False, err=True)


def ask(
    question: str,
    choices: Sequence[str] | None = None,
    *,
    hidden: bool = False,
    otherwise: str | None = None,
) -> str:
    """Ask for a text on standard error: one of ``choices``, if given; without echo if ``hidden``.

    ``otherwise`` is the answer when nothing is typed; without it the question is repeated.
    """
    kind = click.Choice(choices) if choices else None
    answer: str = click.prompt(
        terminal_text(question), otherwise, type=kind, hide_input=hidden, show_default=False, err=True
    )
    return answer
