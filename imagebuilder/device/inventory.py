"""What is in the slots now: each disk, who uses it, what it carries, what speaks against writing to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk, disk_at, find_disks
from imagebuilder.device.holders import Holding, Host, holdings_of, notes_of, read_host
from imagebuilder.device.identity import NOTHING, Carried, carried


@dataclass(frozen=True)
class Candidate:
    """A disk that may be written to when ``refusals`` is empty. ``notes`` say what else should be known."""

    disk: Disk
    holdings: tuple[Holding, ...]
    carried: Carried
    refusals: tuple[str, ...]
    notes: tuple[str, ...] = ()


def survey(disks: Iterable[Disk], virtual: bool, need: int | None = None) -> list[Candidate]:
    """Judge each disk; ``need`` is the size of the largest node image in bytes, if that is known."""
    disks = list(disks)
    host = read_host(one.name for one in disks if one.has_medium and not policy.kind(one, virtual))
    return [_candidate(disk, host, virtual, need) for disk in disks]


def _candidate(disk: Disk, host: Host, virtual: bool, need: int | None) -> Candidate:
    is_card = disk.has_medium and not policy.kind(disk, virtual)
    what = carried(disk.node) if is_card else NOTHING
    holdings = tuple(holdings_of(disk.name, host))
    notes = tuple(notes_of(disk.name, host)) if is_card else ()
    return Candidate(disk, holdings, what, policy.refusals(disk, holdings, need, virtual), notes)


def used_now(card: Candidate) -> Candidate:
    """The card with who uses it now, which may be others than when it was looked at."""
    name = card.disk.name
    host = read_host([name])
    return replace(card, holdings=tuple(holdings_of(name, host)), notes=tuple(notes_of(name, host)))


def present(devices: Sequence[Path], virtual: bool) -> list[Disk]:
    """The disks at ``devices``, or all there are when none is named. UsageError for what is no disk."""
    return [disk_at(path) for path in devices] if devices else find_disks(virtual)
