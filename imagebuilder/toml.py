"""Reader for TOML files that are not trusted: bounded in size, with every error reported with its line.

tomllib does not keep line numbers, so the line of a key is looked up in the text.
"""

import errno
import json
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagebuilder.errors import UsageError
from imagebuilder.reading import read_regular

if TYPE_CHECKING:  # a completion reads the manifest, and needs no pydantic
    from pydantic import ValidationError

SIZE_LIMIT = 256 << 10  # bytes; no manifest and no layer.toml is larger
_DOTS_LIMIT = 100  # in one line: tomllib's time grows with the square of the number of parts of a key
_SHOWN_LIMIT = 60  # characters of a value in a message
_AT_END = " (at end of document)"

Place = tuple[str | int, ...]
"""The path to a value: its keys and list positions (from 0), such as ("node", 2, "address")."""

Problem = tuple[Place, str]
UNKNOWN = "unknown key"

_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_NAMES = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER = re.compile(rf"\s*(\[{{1,2}})\s*({_NAMES})\s*\]{{1,2}}\s*(#.*)?$")
_KEY = re.compile(rf"\s*({_NAMES})\s*=")


def read(path: Path, hint: str = "") -> bytes:
    """The bytes of the TOML file ``path``. Raises UsageError when it cannot be read or is too large."""
    try:
        return read_regular(path, SIZE_LIMIT)
    except OSError as error:
        hints = {
            errno.EFBIG: "check that it is the right file",
            errno.EINVAL: "save it as a regular file and name that file",
        }
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hints.get(error.errno or 0, hint)
        ) from error


def decode(raw: bytes, path: Path) -> str:
    """The text of a TOML file, without a byte order mark (editors on Windows write one).

    Raises UsageError when it is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text", "save the file as UTF-8") from error


def parse(text: str, path: Path) -> dict[str, Any]:
    """The document of a TOML text. Raises UsageError with file and line when it is not TOML."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > _DOTS_LIMIT:
            raise UsageError(f"{path}:{number}: more than {_DOTS_LIMIT} dots in one line", "split the line")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply", "no key takes nested lists") from error
    except ValueError as error:  # also from int() and datetime, for a number or a date
        message, number = _split_message(str(error), text)
        explained = _explain(message, text.split("\n")[number - 1])
        raise UsageError(f"{path}:{number}: not TOML: {explained}", "correct this line") from error


def _split_message(message: str, text: str) -> tuple[str, int]:
    """A message of tomllib without the line at its end, and that line (from 1)."""
    if match := re.fullmatch(r"(?s)(.*) \(at line ([0-9]+), column [0-9]+\)", message):
        return match[1], int(match[2])
    if message.endswith(_AT_END):
        return message.removesuffix(_AT_END), text.count("\n") + 1
    return message, 1


def _explain(message: str, line: str) -> str:
    """A message of tomllib about ``line``, in words for the writer of the file."""
    if message == "Invalid value":
        return 'invalid value; text needs quotes, such as "pi"'
    if not message.startswith(("Cannot overwrite", "Cannot declare")):
        return message
    if header := _HEADER.match(line):
        name = _spell(_split(header[2]))
        return f"{name} is declared twice: join both, or for a list write [[{name}]], with two brackets"
    if key := _KEY.match(line):
        return f"{_spell(_split(key[1]))} is set twice"
    return message


def problems(error: "ValidationError", document: object) -> list[Problem]:
    """The errors of pydantic in plain words, with their places in ``document``."""
    return [_problem(dict(details), document) for details in error.errors(include_url=False)]


def _problem(error: dict[str, Any], document: object) -> Problem:
    # pydantic adds words that are not in the document, such as the name of a type, to a place.
    kind = error["type"]
    place: Place = ()
    inner = document
    for part in error["loc"]:
        if part in keys(inner):
            inner = inner[part]  # type: ignore[index]  # it has keys
        elif kind != "missing" or part != error["loc"][-1]:
            continue
        place = (*place, part)
    match kind:
        case "extra_forbidden":
            return place, UNKNOWN
        case "missing":
            return place, "missing"
        case "model_type" | "dict_type":
            return place, "takes a table"
        case "list_type":
            return place, _list_needed(str(place[-1]), error["input"])
        case "string_type":
            return place, "takes text in quotes"
        case "too_short":
            return place, "takes a list with at least one item"
        case "ip_v4_address":
            return place, 'is not an IPv4 address such as "10.0.0.1"'
        case "ip_v4_network":
            return place, 'is not an IPv4 network such as "10.0.0.0/24"'
        case _:
            message = str(error["msg"]).removeprefix("Value error, ")
            return place, message.replace("Input should be", "takes", 1)


def _list_needed(name: str, value: object) -> str:
    if isinstance(value, dict):
        return f"write [[{name}]], with two brackets"
    if isinstance(value, str) and value.isprintable() and len(value) <= _SHOWN_LIMIT:
        return f"takes a list, such as {json.dumps([value], ensure_ascii=False)}"
    return 'takes a list in brackets, such as ["a", "b"]'


def keys(inner: object) -> Collection[str | int]:
    """The keys of a table or the positions of a list; empty for any other value."""
    if isinstance(inner, dict):
        return inner
    return range(len(inner)) if isinstance(inner, list) else ()


def refusal(path: Path, text: str, found: Sequence[Problem], hint: str) -> UsageError:
    """The error that lists all problems in ``found``, one a line, in the order of the file ``path``."""
    lines = _key_lines(text)
    located = {(_line_of(place, lines), _spell(place), problem) for place, problem in found}
    listed = [f"{path}:{line}: {where}: {problem}" for line, where, problem in sorted(located)]
    if len(listed) == 1:
        return UsageError(listed[0], hint)
    return UsageError(f"{path} has {len(listed)} errors", "\n".join(listed))


def _key_lines(text: str) -> dict[Place, int]:
    """The line (from 1) of each table and key that begins a line."""
    lines: dict[Place, int] = {}
    tables: Counter[Place] = Counter()  # the number of [[NAME]] headers so far, by name
    table: Place = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            names = _split(header[2])
            if header[1] == "[[":
                tables[names] += 1
            table = ()
            for depth, name in enumerate(names, start=1):
                count = tables[names[:depth]]
                table += (name, count - 1) if count else (name,)
            lines.setdefault(names, number)  # the first table stands for the whole list
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            names = _split(key[1])
            for depth in range(1, len(names) + 1):
                lines.setdefault((*table, *names[:depth]), number)
    return lines


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip("\"'") for name in re.findall(_NAME, names))


def _line_of(place: Place, lines: dict[Place, int]) -> int:
    """The line of ``place``, else of the nearest table or list around it."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return 1


def _spell(place: Place) -> str:
    """A place as text, counted from 1: ``node[3].address``. A key that is not a bare key is quoted."""
    spelled = ""
    for part in place:
        if isinstance(part, int):
            spelled += f"[{part + 1}]"
        else:
            spelled += f".{part}" if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part) else f".{part[:64]!r}"
    return spelled.removeprefix(".") or "the file"
