"""Asking for a secret at the terminal, and keeping it in secrets.toml."""

import json
import re
import tomllib
from pathlib import Path

from imagebuilder.cli.output import ask, echo
from imagebuilder.errors import UsageError
from imagebuilder.reading import open_regular, read_to
from imagebuilder.system import files
from imagebuilder.toml import SIZE_LIMIT

_BY_HAND = "edit the file by hand"


def ask_secret(name: str) -> str:
    """Ask for the secret ``name`` twice, without echo, until both answers are the same; "" for no answer."""
    while True:
        first = ask(f"Secret {name}", hidden=True, otherwise="")
        if not first:
            echo(f"nothing was typed: {name} has no value", err=True)
            return ""
        if ask(f"Secret {name} again", hidden=True, otherwise="") == first:
            return first
        echo("the two answers differ: type it again", err=True)


def keep_secret(file: Path, name: str, value: str) -> None:
    """Set ``name`` in the secrets file, which stays as it is otherwise and gets mode 0600.

    Raises UsageError when the value is not UTF-8, the file is not valid, or its line for ``name`` cannot be
    replaced. No message quotes the file or the value.
    """
    if any("\ud800" <= character <= "\udfff" for character in value):  # bytes that are not UTF-8
        raise UsageError(f"{name}: the value is not UTF-8 text", "give it as UTF-8")
    try:
        with open_regular(file) as stream:
            text = read_to(stream, SIZE_LIMIT, file).decode()
        before = tomllib.loads(text)
    except FileNotFoundError:
        text, before = "", {}
    except OSError as error:
        raise UsageError(
            f"cannot read {file}: {error.strerror}", "check its owner and permissions"
        ) from error
    except (ValueError, RecursionError):
        raise UsageError(f"{file}: not TOML", 'each line is NAME = "…"') from None
    quoted = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # as TOML's basic strings
    line = f"{name} = {quoted}"
    own = re.compile(rf"^[ \t]*{re.escape(name)}[ \t]*=.*$", re.MULTILINE)
    if name in before:
        after, count = own.subn(lambda _: line, text)
    else:  # before a table, if there is one
        at = re.search(r"^[ \t]*\[", text, re.MULTILINE)
        head, tail = (text[: at.start()], text[at.start() :]) if at else (text, "")
        after, count = f"{head}{'' if head.endswith(chr(10)) or not head else chr(10)}{line}\n{tail}", 1
    try:
        right = count == 1 and tomllib.loads(after) == before | {name: value}
    except ValueError:
        right = False
    if not right:
        raise UsageError(f"{file}: the line of {name} cannot be replaced", _BY_HAND)
    try:
        files.write(file, after.encode(), 0o600)
        files.hand_over(file, file.parent)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}", "check that you may write there"
        ) from error
