"""The present disks: the uses of each, the node it carries, and the reasons against writing to it."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk, changed, disk_at, find_disks
from imagebuilder.device.existing import unfinished_on
from imagebuilder.device.holders import DiskUses, Holding, holdings_of, notes_of, read_host
from imagebuilder.device.identity import NOTHING, Carried, carried
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.system import blockdev

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A disk; it may be written to when ``refusals`` is empty. ``notes`` are shown with the question.

    ``unfinished`` is the node whose writing to the card was interrupted; None for any other card.
    """

    disk: Disk
    holdings: tuple[Holding, ...]
    carried: Carried
    refusals: tuple[policy.Refusal, ...]
    notes: tuple[str, ...] = ()
    unfinished: Carried | None = None

    @property
    def meant(self) -> Carried:
        """The node that the card carries, or was to carry before its writing was interrupted."""
        return self.unfinished or self.carried

    def carries(self, cluster: str) -> str:
        """The node for a table of cards, with its cluster unless it is ``cluster``."""
        return (
            f"{self.meant.named(cluster) or 'a node'} (cut off)"
            if self.unfinished
            else self.meant.named(cluster)
        )


def survey(disks: Iterable[Disk], virtual: bool, need: int | None = None) -> list[Candidate]:
    """Examine each disk; ``need`` is the size of the largest node image in bytes, if known."""
    disks = list(disks)
    host = read_host(disk.name for disk in disks if disk.has_medium and not policy.kind(disk, virtual))
    candidates = [_candidate(disk, host, virtual, need) for disk in disks]
    for each in candidates:
        _log.debug("%s: %s", each.disk.node, policy.in_words(each.refusals) or "a card")
    return candidates


def _candidate(disk: Disk, host: DiskUses, virtual: bool, need: int | None) -> Candidate:
    is_card = disk.has_medium and not policy.kind(disk, virtual)
    content = carried(disk.node) if is_card else NOTHING
    holdings = tuple(holdings_of(disk.name, host))
    notes = tuple(notes_of(disk.name, host)) if is_card else ()
    refusals = policy.refusals(disk, holdings, need, virtual)
    unfinished = _unfinished(disk) if is_card and content == NOTHING else None
    return Candidate(disk, holdings, content, refusals, notes, unfinished)


def _unfinished(disk: Disk) -> Carried | None:
    try:
        return unfinished_on(disk.node)
    except PiimgError:  # this user may not read it
        return None


class CardChanged(UsageError):
    """A card changed after the question to the user. Nothing was written."""


def survey_again(cards: Iterable[Candidate], virtual: bool) -> list[Candidate]:
    """Examine the cards again after the question was answered.

    Raises CardChanged when one is another disk or medium, or carries another node, than was shown.
    """
    cards = list(cards)
    for card in cards:
        differs = "; ".join(changed(card.disk))
        if differs:
            raise _changed(f"{card.disk.node} is no longer the selected card: {differs}")
    fresh = (replace(disk_at(card.disk.node), allowed=card.disk.allowed) for card in cards)
    now = survey(fresh, virtual)
    for before, card in zip(cards, now, strict=True):
        # A card with refusals is reported with these: they say more than the node it carries.
        if not card.refusals and card.meant != before.meant:
            raise _changed(
                f"{card.disk.node} carries {_named(card.meant)} now,"
                f" and carried {_named(before.meant)} when you were asked"
            )
    return now


def _changed(message: str) -> CardChanged:
    return CardChanged(message, "nothing was written; check the cards with: piimg cards")


def _named(content: Carried) -> str:
    return content.named() or "no node"


def check_rights(disk: Disk, twice: bool) -> None:
    """Raise UsageError when this user may not write to ``disk``, or, with ``twice``, not open it twice."""
    if not blockdev.may_open(disk.node, write=True):
        raise UsageError(f"{disk.node} may not be written to by this user", "run piimg with sudo")
    if twice and not os.access(disk.node, os.R_OK):  # udisks2 can open it, but only once
        raise UsageError(
            f"{disk.node} cannot be opened twice by this user, which --paranoid requires",
            "run piimg with sudo",
        )


def present(devices: Sequence[Path], virtual: bool) -> list[Disk]:
    """The disks at ``devices``, or all disks when none is named. Raises UsageError for other paths."""
    return [disk_at(path) for path in devices] if devices else find_disks(virtual)


def carried_now(devices: Sequence[Path], virtual: bool) -> Iterator[Carried]:
    """What the cards at ``devices`` carry, or all cards when none is named. Looked at when asked for."""
    for card in survey(present(devices, virtual), virtual):
        yield card.carried
