"""Sections of files such as config.txt and dhcpcd.conf, where a line depends on its heading. No I/O.

A heading begins a section, which ends at the next heading. The form of a given heading determines which
lines are headings: for ``[all]`` all lines in brackets, for ``interface eth0`` those that begin with a word
of the same family. Lines before the first heading are the section with the empty heading.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from imagebuilder.model import Partition

ALL = "[all]"
"""The section of config.txt for all boards. Lines before the first heading also belong to it (Raspberry Pi
documentation, "Conditional filters")."""

_BRACKETS = re.compile(r"\s*\[[^][]*\]\s*")
_MODEL = re.compile(r"\[(pi|cm)[0-9]+[a-z]?\+?\]")
_FAMILIES = (
    ("interface", "ssid", "profile"),  # dhcpcd.conf(5)
    ("host", "match"),  # ssh_config(5), sshd_config(5)
)
_KNOWN = {
    (Partition.BOOT, "/config.txt"): ALL,
    (Partition.ROOT, "/etc/dhcpcd.conf"): "interface X",
}
"""Files with known headings, and an example of a heading."""


@dataclass(frozen=True)
class Section:
    """A section: its normalised heading, the line of the heading (-1: none), and the line after its last."""

    heading: str
    start: int
    end: int


def known_heading(partition: Partition, path: str) -> str:
    """An example of a heading in the file at ``path``; empty if its headings are not known."""
    return _KNOWN.get((partition, path.lower() if partition is Partition.BOOT else path), "")


def normalised(heading: str) -> str:
    """A heading with single spaces; in lower case if it is in brackets, as the firmware ignores case."""
    text = " ".join(heading.split())
    return text.lower() if _BRACKETS.fullmatch(text) else text


def is_heading(line: str, like: str) -> bool:
    """Whether ``line`` is a heading in a file with headings of the form of ``like``."""
    if _BRACKETS.fullmatch(like):
        return _BRACKETS.fullmatch(line) is not None
    word = like.split()[0].lower() if like.split() else ""
    words = next((family for family in _FAMILIES if word in family), (word,))
    first = line.split()[:1]
    return bool(first) and first[0].lower() in words


def sections(lines: Sequence[str], like: str) -> Iterator[Section]:
    """The sections of a file, in order; the first one is the lines before the first heading."""
    heading, start = "", -1
    for number, line in enumerate(lines):
        if is_heading(line, like):
            yield Section(heading, start, number)
            heading, start = normalised(line), number
    yield Section(heading, start, len(lines))


def _unmixed(found: Iterable[Section], like: str) -> Iterator[Section]:
    """The sections under whose heading alone their lines stand.

    In config.txt, filters of different types add up until ``[all]``; a filter of the same type replaces the
    one before (Raspberry Pi documentation, "Combining Conditional Filters"). Only model filters are treated
    as being of the same type.
    """
    filters: set[str] = set()
    for section in found:
        if section.heading in ("", ALL):
            filters = set()
        else:
            filters.add(_type(section.heading))
        if like != ALL or len(filters) <= 1:
            yield section


def _type(heading: str) -> str:
    return "model" if _MODEL.fullmatch(heading) else heading


def lines_under(content: bytes, heading: str, like: str) -> frozenset[bytes]:
    """The lines of ``content`` under this heading alone; for ``[all]`` also those before any."""
    raw = content.splitlines()
    headings = {normalised(heading)}
    if like == ALL and headings <= {"", ALL}:
        headings = {"", ALL}
    found = _unmixed(sections(_texts(raw), like), like)
    matching = (section for section in found if section.heading in headings)
    return frozenset(line for section in matching for line in raw[section.start + 1 : section.end])


def with_lines(before: bytes, lines: bytes, heading: str, like: str) -> bytes:
    """``before`` with the missing ones of ``lines`` added under ``heading``.

    They are added at the end of the file, where they override earlier lines: under the last heading if it is
    ``heading``, else under a new one. With an empty heading they are added before the first heading. In
    config.txt ``[all]`` ends the filters before, if they would apply as well.
    """
    existing = lines_under(before, heading, like)
    added = [line for line in lines.splitlines() if line not in existing]
    if not added:
        return before
    raw = before.splitlines(keepends=True)
    found = [*sections(_texts(before.splitlines()), like)]
    if heading:
        last, is_unmixed = found[-1], found[-1] in _unmixed(found, like)
        under = [] if last.heading == normalised(heading) and is_unmixed else [heading.encode()]
        adds_up = last.heading not in ("", ALL) and (
            not is_unmixed or _type(last.heading) != _type(normalised(heading))
        )
        if under and adds_up and like == ALL != normalised(heading):
            under.insert(0, ALL.encode())
        # config.txt must end in the section for all boards, because other programs append lines to it
        ending = [ALL.encode()] if like == ALL != normalised(heading) else []
        return _joined(raw, [*under, *added, *ending], [])
    return _joined(raw[: found[0].end], added, raw[found[0].end :])


def _joined(above: Sequence[bytes], lines: Sequence[bytes], below: Sequence[bytes]) -> bytes:
    head = b"".join(above)
    gap = b"" if head.endswith(b"\n") or not head else b"\n"
    return head + gap + b"\n".join(lines) + b"\n" + b"".join(below)


def _texts(raw: Sequence[bytes]) -> list[str]:
    return [line.decode("utf-8", "replace") for line in raw]
