"""Files in which a line means something only under its heading: config.txt, dhcpcd.conf and their like. Pure.

A heading begins a section that lasts until the next one. Which lines are headings follows from the form of
the one that is asked for: with ``[all]`` they are all lines in brackets, with ``interface eth0`` those that
begin with a word of its family. What stands before the first heading is the section with the empty heading.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imagebuilder.model import Partition

ALL = "[all]"
"""config.txt's section for every board; a line before the first heading is of it too (Raspberry Pi
documentation, "Conditional filters")."""

_BRACKETS = re.compile(r"\s*\[[^][]*\]\s*")
_FAMILIES = (
    ("interface", "ssid", "profile"),  # dhcpcd.conf(5)
    ("host", "match"),  # ssh_config(5), sshd_config(5)
)
_KNOWN = {
    (Partition.BOOT, "/config.txt"): ALL,
    (Partition.ROOT, "/etc/dhcpcd.conf"): "interface X",
}
"""Files whose headings are known: an example of one."""


@dataclass(frozen=True)
class Section:
    """A heading, normalised; the number of its line (-1: it has none), and of the line behind its last."""

    heading: str
    start: int
    end: int


def known_heading(partition: Partition, path: str) -> str:
    """A heading as the file at ``path`` has them; empty when it is no file whose headings are known."""
    return _KNOWN.get((partition, path.lower() if partition is Partition.BOOT else path), "")


def normalised(heading: str) -> str:
    """A heading with single blanks; those in brackets in lower case, as the firmware takes them."""
    text = " ".join(heading.split())
    return text.lower() if _BRACKETS.fullmatch(text) else text


def is_heading(line: str, like: str) -> bool:
    """Whether ``line`` begins a section in a file whose headings are of the form of ``like``."""
    if _BRACKETS.fullmatch(like):
        return _BRACKETS.fullmatch(line) is not None
    word = like.split()[0].lower() if like.split() else ""
    words = next((family for family in _FAMILIES if word in family), (word,))
    first = line.split()[:1]
    return bool(first) and first[0].lower() in words


def sections(lines: Sequence[str], like: str) -> Iterator[Section]:
    """The sections of a file, in order, with what stands before the first heading as the first of them."""
    heading, start = "", -1
    for number, line in enumerate(lines):
        if is_heading(line, like):
            yield Section(heading, start, number)
            heading, start = normalised(line), number
    yield Section(heading, start, len(lines))


def lines_under(content: bytes, heading: str, like: str) -> frozenset[bytes]:
    """The lines of ``content`` under this heading; those of ``[all]`` also stand before any heading."""
    raw = content.splitlines()
    wanted = {normalised(heading)}
    if like == ALL and wanted <= {"", ALL}:
        wanted = {"", ALL}
    found = (one for one in sections(_texts(raw), like) if one.heading in wanted)
    return frozenset(line for one in found for line in raw[one.start + 1 : one.end])


def with_lines(before: bytes, lines: bytes, heading: str, like: str) -> bytes:
    """``before`` with each of ``lines`` under ``heading`` that does not stand under it yet.

    They are put at the end of the file, where they win over what stands above: under the last heading if that
    is the one, else under a new one. With an empty heading they are put before the first heading.
    """
    there = lines_under(before, heading, like)
    added = [line for line in lines.splitlines() if line not in there]
    if not added:
        return before
    raw = before.splitlines(keepends=True)
    last = [*sections(_texts(before.splitlines()), like)]
    if heading:
        under = [] if last[-1].heading == normalised(heading) else [heading.encode()]
        # config.txt ends in its section for all: what others add to it later must not be for some boards
        ending = [ALL.encode()] if like == ALL != normalised(heading) else []
        return _joined(raw, [*under, *added, *ending], [])
    return _joined(raw[: last[0].end], added, raw[last[0].end :])


def _joined(above: Sequence[bytes], lines: Sequence[bytes], below: Sequence[bytes]) -> bytes:
    head = b"".join(above)
    gap = b"" if head.endswith(b"\n") or not head else b"\n"
    return head + gap + b"\n".join(lines) + b"\n" + b"".join(below)


def _texts(raw: Sequence[bytes]) -> list[str]:
    return [line.decode("utf-8", "replace") for line in raw]
