"""Numbers of system accounts that depend on their names only. No I/O.

Maintainer scripts take the next free number (adduser(8), systemd-sysusers(8)), so an account would have
another number on each node with other packages, and files shared by NFS other owners. Here each new account
gets a number that is computed from its name, if it is free in the base image.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

DYNAMIC = range(100, 1000)
"""Numbers that maintainer scripts choose (Debian Policy 9.2.2); all others are chosen by somebody else."""

CHOSEN = range(200, 900)
"""Numbers that are computed from a name: neither the next ones of adduser nor those of systemd-sysusers."""


@dataclass(frozen=True)
class Numbers:
    """The new numbers of users and groups, by their old ones; ``names`` has those of all new accounts."""

    users: Mapping[int, int]
    groups: Mapping[int, int]
    names: Mapping[str, int]


def renumbering(before: tuple[bytes, bytes], after: tuple[bytes, bytes]) -> Numbers:
    """The numbers for accounts that are new in ``after``; both are (content of passwd, content of group)."""
    known_users, known_groups = ids(before[0]), ids(before[1])
    users = {name: number for name, number in ids(after[0]).items() if name not in known_users}
    groups = {name: number for name, number in ids(after[1]).items() if name not in known_groups}
    dynamic = {name for found in (users, groups) for name, number in found.items() if number in DYNAMIC}
    names = _chosen(sorted(dynamic), {*known_users.values(), *known_groups.values()})
    return Numbers(
        {number: names[name] for name, number in users.items() if number in DYNAMIC},
        {number: names[name] for name, number in groups.items() if number in DYNAMIC},
        names,
    )


def _chosen(names: Iterable[str], taken: set[int]) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for name in names:
        chosen[name] = next(number for number in _candidates(name) if number not in taken)
        taken.add(chosen[name])
    return chosen


def _candidates(name: str) -> Iterator[int]:
    """All numbers of ``CHOSEN``, in an order that depends on ``name``."""
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    for step in range(len(CHOSEN)):
        yield CHOSEN[(start + step) % len(CHOSEN)]


def ids(content: bytes) -> dict[str, int]:
    """The numbers in a passwd or group file (passwd(5), group(5)), by name; invalid lines are skipped."""
    found: dict[str, int] = {}
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isascii() and fields[2].isdigit() and len(fields[2]) <= 10:
            found.setdefault(fields[0], int(fields[2]))
    return found


def with_numbers(content: bytes, numbers: Numbers, *, group: bool) -> bytes:
    """A passwd file, or with ``group`` a group file, with the new numbers."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    return "\n".join(_renumbered(line, numbers, group) for line in lines).encode("utf-8", "surrogateescape")


def _renumbered(line: str, numbers: Numbers, group: bool) -> str:
    fields = line.split(":")
    maps = ((2, numbers.groups),) if group else ((2, numbers.users), (3, numbers.groups))
    for at, changed in maps:
        if len(fields) > at and fields[at].isdigit():
            fields[at] = str(changed.get(int(fields[at]), fields[at]))
    return ":".join(fields)
