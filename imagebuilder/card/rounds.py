"""Rounds of ``flash --all``: with fewer slots than nodes, cards are changed until every node has one."""

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path

from imagebuilder.card.assign import Pairing, pair
from imagebuilder.card.report import CardReport
from imagebuilder.device.inventory import Candidate
from imagebuilder.errors import PiimgError
from imagebuilder.system import blockdev

_EVERY = 1.0  # seconds between two checks of the slots

Identity = tuple[object, ...]
Handled = Mapping[str, Identity]
"""By slot: the identity of the card in it that was already handled."""


class Rounds:
    """The state that is kept between rounds.

    ``remaining`` are the nodes of ``cluster`` without a good card, ``reports`` the reports of all cards so
    far. ``look`` returns the cards in the slots; ``returned`` is called with a completed card of this run
    that was inserted again.
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
        """The cards in the slots now. A completed card that was inserted again counts as handled."""
        cards = list(self._look())
        self._slots.update(card.disk.node for card in cards)
        for card in cards:
            if came_back(card, self.reports) and self._handled.get(card.disk.slot) != card.disk.identity:
                self._handled[card.disk.slot] = card.disk.identity
                self._returned(card)
        return cards

    def pair(self, cards: Sequence[Candidate]) -> Pairing:
        """Assign ``cards`` to the remaining nodes."""
        return pair(self.remaining, cards, self._cluster)

    def record(self, reports: Sequence[CardReport], handled: Handled) -> None:
        """Record the reports of a round, and the card in each slot after it."""
        self.reports += reports
        self._handled.update(handled)
        done = {report.node for report in reports if report.done}
        self.remaining = [node for node in self.remaining if node not in done]

    def next_cards(self, pause: Callable[[], None] = lambda: time.sleep(_EVERY)) -> list[Candidate]:
        """Wait until there are cards to write that were not handled yet, and return all of them.

        A card counts when it is present, and may be written to, in two successive checks: a desktop may still
        be mounting it, or the user may be inserting another. ``pause`` is called before each check.
        """
        before: list[Candidate] = []
        while True:
            pause()
            for path in self._slots:
                blockdev.notice_medium(path)
            try:
                now = [card for card in fresh(self.look(), self._handled) if not card.refusals]
            except (PiimgError, OSError):
                continue  # the device file exists only with a card, or the reader was removed
            if now and now == before:
                return now
            before = now


def fresh(seen: Sequence[Candidate], handled: MutableMapping[str, Identity]) -> list[Candidate]:
    """The cards that were not handled yet. The entry of an empty slot is removed from ``handled``."""
    filled = {card.disk.slot for card in seen if card.disk.has_medium}
    for slot in set(handled) - filled:
        del handled[slot]
    return [
        card for card in seen if card.disk.has_medium and handled.get(card.disk.slot) != card.disk.identity
    ]


def came_back(card: Candidate, reports: Iterable[CardReport]) -> bool:
    """Whether ``card`` is a completed card of this run that appears again in its slot.

    The user inserted it again, or a reader that powered it down detected it again. The kernel then reports a
    new medium, so ``fresh`` does not recognize it: it is identified by the node it carries and by its slot.
    """
    seen = (card.disk.slot, card.disk.size, card.disk.serial, card.carried.node)
    return any(
        report.done and seen == (report.slot, report.size, report.serial, report.node) for report in reports
    )
