"""Does a card keep as much as it claims? Asked before the long write, with a few blocks at growing distances.

A card with a fake capacity either wraps round (what is written beyond its real end lands somewhere before
it), or swallows what is written there. Markers at doubling distances find both, as f3probe does: it too takes
a card that wraps round to do so at a power of two. Where part of a card is believed because it was compared,
wrapping round anywhere is looked for: what stands at the card's start then stands there as well.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from imagebuilder.card.opened import BadCard, CardError, OpenCard
from imagebuilder.card.source import HEAD, Piece

_BLOCK = 4096  # bytes
_FAKE = "it is a fake: do not use it"
_WORN = "it is worn out: use another card"


def check_capacity(card: OpenCard, mark: bytes, write: Callable[[Piece, bytes], None]) -> None:
    """Write markers all over ``card``, read them back, and put back what was there.

    ``mark`` is what was written to the start before: random bytes; ``write`` writes, and tries again. Raises
    BadCard when a marker is not where it was written, CardError when one cannot be written.
    """
    # A place that cannot be read is left alone: if it is in use, writing to it may mend it.
    before = {piece: bytes(data) for piece, data, error in card.reads(_places(card.size)) if error is None}
    markers = {piece: os.urandom(_BLOCK) for piece in before}
    try:
        for piece, marker in markers.items():
            write(piece, marker)
        write(Piece(0, len(mark)), mark)  # what wrapped round to here is lost, and a small cache is flooded
        card.flush()
        after = dict(_contents(card, before))
    finally:
        with contextlib.suppress(CardError):
            for piece, content in before.items():
                card.write(piece, content)
            card.write(Piece(0, len(mark)), mark)
            card.flush()
    wrong = [piece for piece in markers if after[piece] != markers[piece]]
    if len(wrong) > 1 or wrong == list(markers)[-1:]:
        raise _fake(card, wrong[0].start)
    if wrong:
        offset = wrong[0].start
        raise BadCard(f"{card.node} does not keep what is written at byte {offset}", _WORN, offset)


def check_no_echo(card: OpenCard, mark: bytes, end: int) -> None:
    """Look for the ``mark`` of the start in every MiB up to byte ``end``: there a card wraps round.

    What was found right before the mark was written could otherwise be overwritten from elsewhere. Raises
    BadCard.
    """
    echoes = {mark[at : at + _BLOCK]: at for at in range(0, len(mark), _BLOCK)}
    steps = (Piece(at, at + _BLOCK) for at in range(len(mark), end - _BLOCK, len(mark)))
    for piece, data, _ in card.reads(steps):
        at = echoes.get(bytes(data))
        if at is not None:
            raise _fake(card, piece.start - at)


def _places(size: int) -> Iterator[Piece]:
    """At 1 MiB, 2 MiB, 4 MiB, … and at the very end."""
    last = size // _BLOCK * _BLOCK - _BLOCK
    distance = HEAD
    while distance < last:
        yield Piece(distance, distance + _BLOCK)
        distance *= 2
    if last >= HEAD:
        yield Piece(last, last + _BLOCK)


def _contents(card: OpenCard, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, bytes]]:
    for piece, data, error in card.reads(pieces):
        if error is not None:
            raise card.unreadable(piece, error)
        yield piece, bytes(data)


def _fake(card: OpenCard, capacity: int) -> BadCard:
    return BadCard(
        f"{card.node} says it has {card.size >> 20} MiB, and keeps no more than {capacity >> 20} MiB",
        _FAKE,
        capacity,
    )
