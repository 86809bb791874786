"""Rounds of `flash --all`: with fewer slots than nodes, cards are changed until every node has a good one."""

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path

from imagebuilder.card.assign import Pairing, pair
from imagebuilder.card.report import CardReport
from imagebuilder.device.inventory import Candidate
from imagebuilder.errors import PiimgError
from imagebuilder.system import blockdev

_EVERY = 1.0  # seconds between two looks at the slots

Identity = tuple[object, ...]
Handled = Mapping[str, Identity]
"""By slot: the identity of the card in it that was dealt with."""


class Rounds:
    """What is known from one round to the next.

    ``remaining`` are the nodes of ``cluster`` that have no good card yet, ``reports`` those of all cards so
    far. ``look`` gives the cards in the slots; ``returned`` is called with a card of this run that came out
    well and was put in again.
    """

    def __init__(
        self,
        nodes: Iterable[str],
        cluster: str,
        look: Callable[[], Sequence[Candidate]],
        returned: Callable[[Candidate], None],
    ) -> None:
        self.remaining, self.reports = list(nodes), list[CardReport]()
        self._cluster, self._look, self._returned = cluster, look, returned
        self._handled: dict[str, Identity] = {}
        self._slots: set[Path] = set()

    def look(self) -> list[Candidate]:
        """The cards in the slots now. One that is done and came back counts as dealt with."""
        found = list(self._look())
        self._slots.update(one.disk.node for one in found)
        for one in found:
            if came_back(one, self.reports) and self._handled.get(one.disk.slot) != one.disk.identity:
                self._handled[one.disk.slot] = one.disk.identity
                self._returned(one)
        return found

    def pair(self, cards: Sequence[Candidate]) -> Pairing:
        """Which of the remaining nodes goes onto which of ``cards``."""
        return pair(self.remaining, cards, self._cluster)

    def record(self, reports: Sequence[CardReport], handled: Handled) -> None:
        """Take in the reports of a round, and which card is in each slot after it."""
        self.reports += reports
        self._handled.update(handled)
        done = {one.node for one in reports if one.done}
        self.remaining = [node for node in self.remaining if node not in done]

    def next_cards(self, pause: Callable[[], None] = lambda: time.sleep(_EVERY)) -> list[Candidate]:
        """Wait until there is a card to write to that was not dealt with yet; give all of them.

        A card counts when it is there, and may be written to, in two looks in a row: a desktop may still be
        mounting it, and a hand be about to put in another. ``pause`` is called between two looks.
        """
        before: list[Candidate] = []
        while True:
            pause()
            for path in self._slots:
                blockdev.notice_medium(path)
            try:
                now = [one for one in fresh(self.look(), self._handled) if not one.refusals]
            except (PiimgError, OSError):
                continue  # a device file that comes and goes with its card, or a reader that goes meanwhile
            if now and now == before:
                return now
            before = now


def fresh(seen: Sequence[Candidate], handled: MutableMapping[str, Identity]) -> list[Candidate]:
    """The cards that were not dealt with yet. A slot that is seen empty forgets what was in it."""
    filled = {one.disk.slot for one in seen if one.disk.has_medium}
    for slot in set(handled) - filled:
        del handled[slot]
    return [one for one in seen if one.disk.has_medium and handled.get(one.disk.slot) != one.disk.identity]


def came_back(card: Candidate, reports: Iterable[CardReport]) -> bool:
    """Whether ``card`` is one of this run that came out as asked for, and shows up again in its slot.

    A hand puts it back, or a reader takes it up again that powered it down. The kernel then takes it for
    another one, so ``fresh`` does too: it is known by what it carries, in the slot where that was written.
    """
    seen = (card.disk.slot, card.disk.size, card.disk.serial, card.carried.node)
    return any(one.done and seen == (one.slot, one.size, one.serial, one.node) for one in reports)
