"""Names of nodes, paths and owners as the views of a plan show them."""

import sys
import textwrap
from collections.abc import Iterator, Sequence

from imagebuilder.model import Entry, Kind
from imagebuilder.overlay.layer import USER_ID
from imagebuilder.summary import Place

_RUN = 3  # neighbours that are named by the first and the last of them
_FOLDER = 3  # files of a folder that are counted instead of named


def named(names: Sequence[str], everyone: Sequence[str]) -> str:
    """Nodes in words: "all nodes", or their names, and of three or more neighbours the first and the last.

    ``everyone`` are all nodes, in the manifest's order, which ``names`` have too.
    """
    if len(everyone) > 1 and len(names) == len(everyone):
        return "all nodes"
    runs: list[list[str]] = []
    at = {name: number for number, name in enumerate(everyone)}
    for name in names:
        if runs and at[name] == at[runs[-1][-1]] + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    texts = (f"{run[0]} … {run[-1]}" if len(run) >= _RUN else ", ".join(run) for run in runs)
    return ", ".join(texts)


def place_text(place: Place) -> str:
    """A path with its partition, as layers have it: root/etc/hosts."""
    return f"{place[0].value}{place[1]}"


def places_text(places: Sequence[Place]) -> Iterator[str]:
    """Paths in words: those of a folder with many of them are counted."""
    folders: dict[str, list[str]] = {}
    for place in places:
        text = place_text(place)
        folders.setdefault(text.rpartition("/")[0], []).append(text)
    for folder, texts in folders.items():
        if len(texts) >= _FOLDER and "/" in folder:
            yield f"{folder}/ ({len(texts)})"
        else:
            yield from texts


def listed(items: Sequence[str], width: int, most: int, start: str = "") -> list[str]:
    """``start`` and ``items`` as lines of at most ``width`` columns, and ``most`` lines.

    Where not all fit, short ones are named, as more of them fit, and the rest is counted. An item is broken
    only if there is no other.
    """
    if not items and not start:
        return []
    if width == sys.maxsize:
        return [start + ", ".join(items)]
    if len(items) < 2:
        return textwrap.wrap(start + "".join(items), width)
    lines = _wrapped(items, 0, width, start) if sum(map(len, items)) <= width * most else []
    if 0 < len(lines) <= most:
        return lines
    items, fitting = sorted(items, key=len), [f"{start}{len(items)} of them"]
    for count in range(1, len(items)):
        lines = _wrapped(items[:count], len(items) - count, width, start)
        if len(lines) > most:
            break
        fitting = lines
    return fitting


def _wrapped(items: Sequence[str], rest: int, width: int, start: str) -> list[str]:
    """The lines of ``items``, none of which is broken, and of the number of those that are not named."""
    text = ", ".join(item.replace(" ", "\0") for item in items) + (f" and\0{rest}\0more" if rest else "")
    lines = textwrap.wrap(start + text, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def mode_of(entry: Entry) -> str:
    """The mode of a file or a folder in octal digits; empty for what has none."""
    return f"{entry.mode:04o}" if entry.kind in (Kind.FILE, Kind.DIRECTORY) else ""


def owner_text(uid: int, gid: int) -> str:
    """An owner: root, user (the cluster's account), or UID:GID."""
    return {(0, 0): "root", (USER_ID, USER_ID): "user"}.get((uid, gid), f"{uid}:{gid}")
