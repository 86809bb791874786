"""What is in the slots now: each disk, who uses it, what it carries, what speaks against writing to it."""

import time
from collections.abc import Callable, Collection, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagebuilder.card import judge
from imagebuilder.card.carried import NOTHING, Carried, carried
from imagebuilder.card.find import Disk, disk_at, find_disks
from imagebuilder.card.holdings import Holding, Host, holdings_of, notes_of, read_host
from imagebuilder.card.report import CardReport
from imagebuilder.errors import PiimgError
from imagebuilder.system import blockdev

_EVERY = 1.0  # seconds between two looks at the slots


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
    host = read_host(one.name for one in disks if one.has_medium and not judge.kind(one, virtual))
    return [_candidate(disk, host, virtual, need) for disk in disks]


def _candidate(disk: Disk, host: Host, virtual: bool, need: int | None) -> Candidate:
    is_card = disk.has_medium and not judge.kind(disk, virtual)
    what = carried(disk.node) if is_card else NOTHING
    holdings = tuple(holdings_of(disk.name, host))
    notes = tuple(notes_of(disk.name, host)) if is_card else ()
    return Candidate(disk, holdings, what, judge.refusals(disk, holdings, need, virtual), notes)


def used_now(card: Candidate) -> Candidate:
    """The card with who uses it now, which may be others than when it was looked at."""
    name = card.disk.name
    host = read_host([name])
    return replace(card, holdings=tuple(holdings_of(name, host)), notes=tuple(notes_of(name, host)))


def present(devices: Sequence[Path], virtual: bool) -> list[Disk]:
    """The disks at ``devices``, or all there are when none is named. UsageError for what is no disk."""
    return [disk_at(path) for path in devices] if devices else find_disks(virtual)


Done = MutableMapping[str, tuple[object, ...]]
"""By slot: the identity of the card in it that was dealt with."""


def fresh(candidates: Iterable[Candidate], done: Done) -> list[Candidate]:
    """The cards that were not dealt with yet. A slot that is seen empty forgets what was in it."""
    seen = list(candidates)
    filled = {one.disk.slot for one in seen if one.disk.has_medium}
    for slot in set(done) - filled:
        del done[slot]
    return [one for one in seen if one.disk.has_medium and done.get(one.disk.slot) != one.disk.identity]


def came_back(card: Candidate, done: Iterable[CardReport]) -> bool:
    """Whether ``card`` is one of this run that came out as asked for, and shows up again in its slot.

    A hand puts it back, or a reader takes it up again that powered it down. The kernel then takes it for
    another one, so ``fresh`` does too: it is known by what it carries, in the slot where that was written.
    """
    seen = (card.disk.slot, card.disk.size, card.disk.serial, card.carried.node)
    return any(one.done and seen == (one.slot, one.size, one.serial, one.node) for one in done)


def wait_for_cards(
    look: Callable[[], list[Candidate]], slots: Collection[Path], done: Done
) -> list[Candidate]:
    """Wait until there is a card to write to that was not dealt with yet; ``slots`` are looked at anew.

    A card counts when it is there, and may be written to, in two looks in a row: a desktop may still be
    mounting it, and a hand be about to put in another.
    """
    before: list[Candidate] = []
    while True:
        time.sleep(_EVERY)
        for path in slots:
            blockdev.notice_medium(path)
        try:
            now = [one for one in fresh(look(), done) if not one.refusals]
        except (PiimgError, OSError):
            continue  # a device file that comes and goes with its card, or a reader that goes meanwhile
        if now and now == before:
            return now
        before = now
