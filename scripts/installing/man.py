"""Manual pages from the text of --help: one for piimg, one for each command.

click-man would leave the examples out, finds no command that is loaded when it is called for, and escapes
nothing. The language is that of man(7), so that groff and mandoc both read it.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from imagebuilder.cli.command import Command

_WIDTH = 72  # columns
TITLES = {"Examples": "EXAMPLES", "Example": "EXAMPLES"}


def pages(group: click.Group, version: str, date: str) -> Iterator[tuple[str, str]]:
    """The pages of ``group`` and its commands as (file name, text); ``date`` is YYYY-MM-DD."""
    name = group.name or ""
    top = click.Context(group, info_name=name, **group.context_settings)
    known = [
        (word, command) for word in group.list_commands(top) if (command := group.get_command(top, word))
    ]
    subs = [click.Context(command, info_name=word, parent=top) for word, command in known]
    names = [_dashed(sub) for sub in subs]
    table = [(_dashed(sub) + "(1)", sub.command.get_short_help_str(limit=200)) for sub in subs]
    yield f"{name}.1", _page(top, version, date, table, names)
    for sub in subs:
        yield f"{_dashed(sub)}.1", _page(sub, version, date, [], [name, *names])


def _dashed(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(
    context: click.Context, version: str, date: str, commands: list[tuple[str, str]], others: list[str]
) -> str:
    command, name = context.command, _dashed(context)
    about = command.get_short_help_str(limit=200).rstrip(".")
    usage = " ".join(command.collect_usage_pieces(context))
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    formatted = [record for option in options if (record := option.get_help_record(context))]
    see = [other for other in others if other != name]
    lines = [
        f'.TH {_escaped(name.upper())} 1 {date} "piimg {version}" "piimg"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(about)}",
        ".SH SYNOPSIS",
        f".B {_escaped(context.command_path)}",
        *_text(usage),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
        ".SH OPTIONS",
        *(line for words, text in formatted for line in _tagged(_bold(words), text)),
    ]
    if commands:
        lines.append(".SH COMMANDS")
        lines += [line for words, text in commands for line in _tagged(f"\\fB{_escaped(words)}\\fP", text)]
    for title, rows in command.lists().items() if isinstance(command, Command) else ():
        lines.append(f".SH {_escaped(title.upper())}")
        lines += [line for name, text in rows.items() for line in _tagged(f"\\fB{_escaped(name)}\\fP", text)]
    lines += _epilog(command.epilog or "")
    lines += [".SH SEE ALSO", *(f".BR {_escaped(page)} (1){',' * (page != see[-1])}" for page in see)]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text; one that click is told not to wrap (\\b) is kept line by line."""
    for number, paragraph in enumerate(re.split(r"\n{2,}", inspect.cleandoc(text))):
        first, _, rest = paragraph.partition("\n")
        if number:
            yield ".PP"
        if first == "\b":
            yield from _verbatim(rest.split("\n"))
        else:
            yield from _text(paragraph)


def _epilog(text: str) -> Iterator[str]:
    """The examples, under a separate heading."""
    lines = inspect.cleandoc(text).removeprefix("\b\n").split("\n")
    title = TITLES.get(lines[0].rstrip(":"))
    if title is None:
        if text:
            raise ValueError(f"a closing text begins with none of {', '.join(TITLES)}: {lines[0]}")
        return
    yield f".SH {title}"
    yield from _verbatim([line.removeprefix("  ") for line in lines[1:]])


def _verbatim(lines: list[str]) -> Iterator[str]:
    yield from (".nf", *map(_line, lines), ".fi")


def _tagged(tag: str, text: str) -> Iterator[str]:
    yield from (".TP", tag, *_text(text))


def _bold(words: str) -> str:
    """The names of an option in bold, what it takes not: ``-j, --jobs INTEGER``."""
    return re.sub(r"(?<!\w)(\\-(?:\\-)?[a-z](?:[a-z]|\\-)*)", r"\\fB\1\\fP", _escaped(words))


def _text(text: str) -> Iterator[str]:
    """Running text, in lines no longer than an editor shows."""
    yield from map(_line, textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False))


def _line(text: str) -> str:
    """One line: where it begins with a dot or a quote it would be a request."""
    shown = _escaped(text)
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")
