"""Opening a base image: examine it, and refuse it if it is unusable."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from imagebuilder.base.release import BaseInfo
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.image import ext4
from imagebuilder.image.base.examine import examine
from imagebuilder.image.base.findings import Finding, refusal
from imagebuilder.image.base.network import Interfaces
from imagebuilder.image.grow import Space, space_in
from imagebuilder.image.partitions import Slice, Table
from imagebuilder.image.untrusted import Damaged
from imagebuilder.model import ADDING, HOME, Entry, NodePlan, Partition
from imagebuilder.software import Installed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """An examined base image: its partitions, its release, and the facts that builds need.

    ``home`` is the home of UID 1000; ``findings`` are the warnings; with ``recount``, e2fsck must correct the
    root file system of each node image first. Of a dressed base (dressing/), ``made_from`` is the digest of
    the base image it was made from, ``packages`` are all that are installed, ``accounts`` the numbers of new
    system accounts.
    """

    file: Path
    name: str
    digest: str  # sha256 of the image, hex
    table: Table
    boot: Slice
    root: Slice
    info: BaseInfo
    date: int  # seconds since the epoch: the day the base image was made
    space: Space
    index: Path | None
    home: str = HOME
    findings: tuple[Finding, ...] = ()
    recount: bool = False
    made_from: str = ""
    packages: tuple[Installed, ...] = ()
    accounts: Mapping[str, int] = field(default_factory=dict)


def open_base(
    file: Path,
    name: str,
    sha256: str,
    reporter: Reporter,
    interfaces: Interfaces = None,
    index: Path | None = None,
) -> Base:
    """Examine a base image and report its warnings.

    ``name`` is the user's name for it; ``interfaces`` are those that the manifest sets up; ``index`` is where
    its index is kept (image/base_index.py), which is made when a node is prepared. Raises PiimgError if the
    image is refused.
    """
    try:
        seen = examine(file, interfaces, name)
    except Damaged as error:
        raise PiimgError(f"{name}: {error.problem}", error.hint) from error
    refused = refusal(name, seen.findings)
    if refused is not None:
        raise refused
    assert seen.table and seen.boot and seen.root and seen.info  # otherwise a finding refuses the image
    for finding in seen.findings:
        text = f"{name}: {finding.sentence}; {finding.remedy}"
        reporter.emit(Message("warning", text, data={"finding": finding.name}))
    _log.info("%s: examined: %s, %d findings", name, seen.info.pretty, len(seen.findings))
    date, space = _date(file, seen.root, seen.info), space_in(file, seen.root)
    return Base(
        file, name, sha256, seen.table, seen.boot, seen.root, seen.info, date, space, index,
        seen.home, seen.findings, seen.recount,
    )  # fmt: skip


def _date(file: Path, root: Slice, info: BaseInfo) -> int:
    if info.date is not None:
        return int(datetime(info.date.year, info.date.month, info.date.day, tzinfo=UTC).timestamp())
    created = ext4.superblock(file, root.start).get("Filesystem created", "")
    try:
        return int(datetime.strptime(created, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 0


def fitted(plan: NodePlan, base: Base) -> NodePlan:
    """The plan adapted to this base image: corrections first, and the user's files in the account's home.

    A path that the plan replaces needs no correction. Raises PiimgError if two entries of the plan would get
    the same path.
    """
    moved = [dataclasses.replace(entry, path=at_home(entry, base.home)) for entry in plan.entries]
    settled = {(e.partition, e.path) for e in moved if e.kind not in ADDING}
    corrections = (entry for finding in base.findings for entry in finding.entries)
    before = tuple(entry for entry in corrections if (entry.partition, entry.path) not in settled)
    if base.home != HOME:
        _refuse_two_in_one(moved, base)
    return dataclasses.replace(plan, entries=(*before, *moved))


def at_home(entry: Entry, home: str) -> str:
    """The path of an entry on a base image with ``home`` as the home of its account."""
    inside = entry.partition is Partition.ROOT and f"{entry.path}/".startswith(f"{HOME}/")
    return home + entry.path.removeprefix(HOME) if inside else entry.path


def _refuse_two_in_one(entries: list[Entry], base: Base) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.partition is Partition.ROOT and entry.kind not in ADDING:
            other = seen.setdefault(entry.path, entry)
            if other is not entry:
                raise PiimgError(
                    f"{entry.source} and {other.source} both write {entry.path} on {base.name}",
                    f"files for {HOME} are put into {base.home}, the home of its account: keep one of both",
                )
