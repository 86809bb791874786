"""What version 0.1.0 promised (docs/compatibility.md), and how documents of today are held to it.

The samples in tests/data/compatibility were made by the version of their folder, and are never changed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.checkout import TOP

KEPT = TOP / "tests" / "data" / "compatibility" / "0.1.0"


def kept(name: str) -> Any:
    """The document in a sample that is JSON."""
    return json.loads((KEPT / name).read_text())


def lost(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """What of ``before`` is not in ``now``: keys that are missing, and values of another type.

    Each element of a list of ``before`` must have one of its form in the list of ``now``, if that has any. A
    value that may be null may be null in either. Elements that say their kind are compared with those of it.
    """
    if before is None or now is None:
        return
    if isinstance(before, dict):
        if not isinstance(now, dict):
            yield f"{place} is no object"
            return
        for key, value in before.items():
            if key not in now:
                yield f"{place}.{key} is missing"
            else:
                yield from lost(value, now[key], f"{place}.{key}")
    elif isinstance(before, list):
        if not isinstance(now, list):
            yield f"{place} is no list"
        else:
            tried = [
                [list(lost(each, other, f"{place}[]")) for other in _of_kind(each, now)] for each in before
            ]
            yield from (
                problem for problems in tried if all(problems) for problem in min(problems, default=[])
            )
    elif _kind(before) != _kind(now):
        yield f"{place} was {_kind(before)}, and is {_kind(now)}"


def _of_kind(each: Any, now: list[Any]) -> list[Any]:
    kind = each.get("kind") if isinstance(each, dict) else None
    return [other for other in now if kind is None or other.get("kind") == kind]


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "text" if isinstance(value, str) else "another"


def check(name: str, document: Any) -> None:
    """Fail when a document of today lacks what the sample ``name`` has."""
    problems = list(lost(kept(name), document))
    assert not problems, f"docs/compatibility.md promises {name}: {'; '.join(problems)}"


def files() -> list[Path]:
    """All samples."""
    return sorted(KEPT.iterdir())
