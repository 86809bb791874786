"""TOML files from outside: read with a limit, and refused with every fault at its line.

tomllib keeps no places, so the line of a key is looked up in the text.
"""

import errno
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imagebuilder.errors import UsageError
from imagebuilder.reading import read_regular

SIZE_LIMIT = 256 << 10  # bytes; no manifest and no layer.toml is larger
_DOTS_LIMIT = 100  # in one line: tomllib's time grows with the square of a dotted key's parts

Place = tuple[str | int, ...]
"""The keys and (from 0) the list positions that lead to a value: ("node", 2, "address")."""

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
        own = {errno.EFBIG: "is it the right file?", errno.EINVAL: "save it as a file, and name that"}
        raise UsageError(f"cannot read {path}: {error.strerror}", own.get(error.errno or 0, hint)) from error


def decode(raw: bytes, path: Path) -> str:
    """TOML is UTF-8 text; a byte order mark, which editors on Windows write, is taken off."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text", "save the file as UTF-8") from error


def parse(text: str, path: Path) -> dict[str, Any]:
    """The document of a TOML text. Raises UsageError with file and line when it is not TOML."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > _DOTS_LIMIT:
            raise UsageError(f"{path}:{number}: more than {_DOTS_LIMIT} dots in one line", "break it up")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply", "no key takes that") from error
    except ValueError as error:  # also what int() and datetime say of a number or a date
        what, at = _place(str(error), text)
        raise UsageError(f"{path}:{at}: not TOML: {what}", "correct this line") from error


def _place(said: str, text: str) -> tuple[str, int]:
    """tomllib tells the line as words at the end of its message."""
    if found := re.fullmatch(r"(?s)(.*) \(at line ([0-9]+), column [0-9]+\)", said):
        return found[1], int(found[2])
    if said.endswith("(at end of document)"):
        return said, text.count("\n") + 1
    return said, 1


def problems(error: ValidationError, document: object) -> list[Problem]:
    """pydantic's errors with their places in ``document``."""
    return [_problem(dict(one), document) for one in error.errors(include_url=False)]


def _problem(error: dict[str, Any], document: object) -> Problem:
    # pydantic adds words of its own to a place: only what the document itself holds is kept.
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
        case "model_type":
            return place, "takes a table"
        case _:
            said = str(error["msg"]).removeprefix("Value error, ")
            return place, said.replace("Input should be", "takes", 1)


def keys(inner: object) -> Collection[str | int]:
    """The keys of a table, the positions of a list; nothing else has any."""
    if isinstance(inner, dict):
        return inner
    return range(len(inner)) if isinstance(inner, list) else ()


def refusal(path: Path, text: str, found: Sequence[Problem], hint: str) -> UsageError:
    """The error that tells all of ``found``, a line each, in the order of the file ``path``."""
    lines = _key_lines(text)
    told = {(_line_of(place, lines), _spell(place), what) for place, what in found}
    listed = [f"{path}:{line}: {where}: {what}" for line, where, what in sorted(told)]
    if len(listed) == 1:
        return UsageError(listed[0], hint)
    return UsageError(f"{path} has {len(listed)} errors", "\n".join(listed))


def _key_lines(text: str) -> dict[Place, int]:
    """The line (from 1) of each table and key that is written at a line's start."""
    lines: dict[Place, int] = {}
    tables: Counter[Place] = Counter()  # how many [[NAME]] of each name there have been
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
            lines.setdefault(names, number)  # of all tables of that name together: the first
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            names = _split(key[1])
            for depth in range(1, len(names) + 1):
                lines.setdefault((*table, *names[:depth]), number)
    return lines


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip("\"'") for name in re.findall(_NAME, names))


def _line_of(place: Place, lines: dict[Place, int]) -> int:
    """The line of ``place``, else of what it stands in."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return 1


def _spell(place: Place) -> str:
    """A place as people count: ``node[3].address``. A key that is not plain is quoted, on one line."""
    spelled = ""
    for part in place:
        if isinstance(part, int):
            spelled += f"[{part + 1}]"
        else:
            spelled += f".{part}" if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part) else f".{part[:64]!r}"
    return spelled.removeprefix(".") or "the file"
