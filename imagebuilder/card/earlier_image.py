"""Find out whether a card contains an earlier image of its node, by the block maps that were kept of them.

A card that was flashed from an older manifest differs from what the manifest gives now, and is not damaged:
each piece of it has the digest that it had when it was written. Only reads the card.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagebuilder.card.io import BadCard, OpenCard, opened
from imagebuilder.card.progress import READ_BACK, SAMPLE, Meter
from imagebuilder.card.retry import TRIES
from imagebuilder.card.source import Piece
from imagebuilder.card.write import PATIENCE
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Reporter

_SAMPLED = 16  # pieces in which an earlier image differs from the present one


@dataclass(frozen=True)
class EarlierImage:
    """The card contains the image of the block map ``name``. ``wrong`` is the first piece of it that is
    damaged; None when all are as they were written."""

    name: str
    wrong: Piece | None


def earlier_image(
    disk: Disk,
    present: Sequence[Piece],
    earlier: Mapping[str, Sequence[Piece]],
    reporter: Reporter,
    stop: threading.Event,
) -> EarlierImage | None:
    """Which of the ``earlier`` images the card in ``disk`` contains; None when it contains none of them.

    ``earlier`` has the pieces of each by the name of its block map; ``present`` are those of the image that
    the card does not contain. Everything that an image has in use is read. Raises PiimgError when the card
    cannot be opened, was removed, or ``stop`` is set.
    """
    with opened(disk, write=False, patience=PATIENCE) as card:
        meter = Meter(str(disk.node), reporter, stop)
        damaged = None
        for name in _likely(meter, card, present, earlier):
            wrong = _first_wrong(meter, card, earlier[name])
            if wrong is None:
                card.check_same()
                return EarlierImage(name, None)
            damaged = damaged or EarlierImage(name, wrong)
        return damaged


def _likely(
    meter: Meter, card: OpenCard, present: Sequence[Piece], earlier: Mapping[str, Sequence[Piece]]
) -> list[str]:
    """The names of the images of which the card contains most of what only they have, the likeliest first."""
    known, found = set(present), dict[str, int]()
    for name, pieces in earlier.items():
        fit = all(piece.end <= card.size and piece.start % card.sector == 0 for piece in pieces)
        own = [piece for piece in pieces if piece not in known] if fit else []
        sample = own[:: -(-len(own) // _SAMPLED)] if own else []
        with meter.task(SAMPLE, sum(piece.size for piece in sample)) as task:
            right = 0
            for piece in sample:
                right += _is_right(card, piece)
                task.advance(piece.size)
        if 2 * right > len(sample):
            found[name] = right
    return sorted(found, key=lambda name: -found[name])


def _first_wrong(meter: Meter, card: OpenCard, pieces: Sequence[Piece]) -> Piece | None:
    with meter.task(READ_BACK, sum(piece.size for piece in pieces)) as task:
        for piece, data, error in card.reads(pieces):
            right = error is None and hashlib.sha256(data).digest() == piece.digest
            if not right and not any(_is_right(card, piece) for _ in range(TRIES)):
                return piece
            task.advance(piece.size)
    return None


def _is_right(card: OpenCard, piece: Piece) -> bool:
    try:
        return hashlib.sha256(card.read(piece)).digest() == piece.digest
    except BadCard:
        return False
