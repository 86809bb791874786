"""Rounds of `flash --all`: which cards in the slots are new, and waiting for the next ones."""

import time
from collections.abc import Callable, Collection, Iterable, MutableMapping
from pathlib import Path

from imagebuilder.card.report import CardReport
from imagebuilder.device.inventory import Candidate
from imagebuilder.errors import PiimgError
from imagebuilder.system import blockdev

_EVERY = 1.0  # seconds between two looks at the slots

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
