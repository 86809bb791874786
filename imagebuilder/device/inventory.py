"""What is in the slots now: each disk, who uses it, what it carries, what speaks against writing to it."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk, changed, disk_at, find_disks
from imagebuilder.device.holders import DiskUses, Holding, holdings_of, notes_of, read_host
from imagebuilder.device.identity import NOTHING, Carried, carried
from imagebuilder.errors import UsageError
from imagebuilder.system import blockdev


@dataclass(frozen=True)
class Candidate:
    """A disk that may be written to when ``refusals`` is empty. ``notes`` say what else should be known."""

    disk: Disk
    holdings: tuple[Holding, ...]
    carried: Carried
    refusals: tuple[policy.Refusal, ...]
    notes: tuple[str, ...] = ()


def survey(disks: Iterable[Disk], virtual: bool, need: int | None = None) -> list[Candidate]:
    """Judge each disk; ``need`` is the size of the largest node image in bytes, if that is known."""
    disks = list(disks)
    host = read_host(one.name for one in disks if one.has_medium and not policy.kind(one, virtual))
    return [_candidate(disk, host, virtual, need) for disk in disks]


def _candidate(disk: Disk, host: DiskUses, virtual: bool, need: int | None) -> Candidate:
    is_card = disk.has_medium and not policy.kind(disk, virtual)
    what = carried(disk.node) if is_card else NOTHING
    holdings = tuple(holdings_of(disk.name, host))
    notes = tuple(notes_of(disk.name, host)) if is_card else ()
    return Candidate(disk, holdings, what, policy.refusals(disk, holdings, need, virtual), notes)


class CardChanged(UsageError):
    """A card is not what it was when the user was asked about it. Nothing was written."""


def survey_again(cards: Iterable[Candidate], virtual: bool) -> list[Candidate]:
    """The cards as they are now that the question is answered: who uses each, and what speaks against it.

    Raises CardChanged when one is another disk or medium, or carries another node, than was shown.
    """
    cards = list(cards)
    for card in cards:
        differs = "; ".join(changed(card.disk))
        if differs:
            raise _changed(f"{card.disk.node} is no longer the selected card: {differs}")
    now = survey([disk_at(card.disk.node) for card in cards], virtual)
    for before, card in zip(cards, now, strict=True):
        # A card that may not be written is not read either: its reasons say more than what it carries.
        if not card.refusals and card.carried != before.carried:
            raise _changed(
                f"{card.disk.node} carries {_named(card.carried)} now,"
                f" and carried {_named(before.carried)} when you were asked"
            )
    return now


def _changed(message: str) -> CardChanged:
    return CardChanged(message, "nothing was written; check the cards with: piimg cards")


def _named(what: Carried) -> str:
    if not what.node:
        return "no node"
    return f"{what.node} of {what.cluster}" if what.cluster else what.node


def check_rights(disk: Disk, twice: bool) -> None:
    """Raise UsageError when this user may not write to ``disk``; ``twice``: or not open it two times."""
    if not blockdev.may_open(disk.node, write=True):
        raise UsageError(f"{disk.node} may not be written to by this user", "run piimg with sudo")
    if twice and not os.access(disk.node, os.R_OK):  # udisks2 opened it: it is not opened twice
        raise UsageError(
            f"{disk.node} cannot be opened twice by this user, as --paranoid does", "run piimg with sudo"
        )


def present(devices: Sequence[Path], virtual: bool) -> list[Disk]:
    """The disks at ``devices``, or all there are when none is named. UsageError for what is no disk."""
    return [disk_at(path) for path in devices] if devices else find_disks(virtual)
