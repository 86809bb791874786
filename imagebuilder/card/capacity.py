"""Does a card keep as much as it claims? Asked before the long write, with a few blocks at growing distances.

A card with a fake capacity either wraps round (what is written beyond its real end lands somewhere before
it), or swallows what is written there. Markers at doubling distances find both, as f3probe does: it too takes
a card that wraps round to do so at a power of two. Up to where the image ends, wrapping round at any other
place is looked for too: what stands at the card's start then stands there as well. What was compared and
believed before can so not be overwritten from elsewhere.
"""

import os
from collections.abc import Iterator, Sequence

from imagebuilder.card import retry
from imagebuilder.card.io import BadCard, OpenCard
from imagebuilder.card.progress import Meter
from imagebuilder.card.source import HEAD, Piece

_BLOCK = 4096  # bytes
_SECTOR = 512  # bytes; what a card wraps round at is a multiple of it
_SIGN = 8  # bytes; as many of a sector tell random ones apart
_FAKE = "it is a fake: do not use it"
_WORN = "it is worn out: use another card"


def check_capacity(meter: Meter, card: OpenCard, mark: bytes) -> None:
    """Write markers to the ``places`` of ``card``, read them back, and put back what was there.

    ``mark`` is what was written to the start before: random bytes, which must have arrived there. Nobody
    reads again what is put back: what is in use there must be written anew. Raises BadCard when something is
    not where it was written, CardError when it cannot be written.
    """
    # A place that cannot be read is left alone: if it is in use, writing to it may fix it.
    before = {piece: bytes(data) for piece, data, error in card.reads(places(card.size)) if error is None}
    markers = {piece: os.urandom(_BLOCK) for piece in before}
    head = Piece(0, len(mark))
    for piece, marker in markers.items():
        meter.heed_stop()
        retry.write(meter, card, piece, marker)
    retry.write(meter, card, head, mark)  # what wrapped round to here is lost, a small cache is flooded
    card.flush()
    bad = retry.fault(card, head, mark) and retry.read(meter, card, head, mark)
    if bad is not None:
        raise bad
    lost = [piece for piece in markers if _lost(meter, card, piece, markers[piece])]
    if lost:
        raise _fault(card, mark, list(markers), lost)
    for piece, content in before.items():
        meter.heed_stop()
        retry.write(meter, card, piece, content)


def _lost(meter: Meter, card: OpenCard, piece: Piece, marker: bytes) -> bool:
    return retry.fault(card, piece, marker) is not None and retry.read(meter, card, piece, marker) is not None


def _fault(card: OpenCard, mark: bytes, written: Sequence[Piece], lost: Sequence[Piece]) -> BadCard:
    """What it means that the markers at ``lost`` are not there; ``written`` is where all were written."""
    offset = lost[0].start
    echo = mark.find(card.read(lost[0]))
    if echo >= 0:  # what stands at the start stands here too
        return _fake(card, offset - echo)
    if len(lost) > 1 or lost[0] == written[-1]:
        return _fake(card, offset)
    return BadCard(card.node, f"does not keep what is written at byte {offset}", _WORN, offset)


def check_no_echo(card: OpenCard, mark: bytes, end: int) -> None:
    """Look for the ``mark`` of the start all over the card up to byte ``end``: there it wraps round.

    The steps are such that each whole mark has one of the blocks that are looked at in it, and the last block
    is of what reaches beyond the end. Raises BadCard.
    """
    last = card.padded(end) - _BLOCK
    if last < len(mark):
        return  # next to nothing lies behind the head, and it is written last
    echoes = {mark[at : at + _SIGN]: at for at in range(0, len(mark), _SECTOR)}
    for place, block in card.glances([*range(len(mark), last, len(mark) - _BLOCK), last], _BLOCK):
        for within in range(0, _BLOCK if place == last else 1, _SECTOR):
            at = echoes.get(bytes(block[within : within + _SIGN]))
            if at is not None and block[within : within + _SECTOR] == mark[at : at + _SECTOR]:
                raise _fake(card, place + within - at)


def places(size: int) -> Iterator[Piece]:
    """At 1 MiB, 2 MiB, 4 MiB, … and at the very end."""
    last = size // _BLOCK * _BLOCK - _BLOCK
    distance = HEAD
    while distance < last:
        yield Piece(distance, distance + _BLOCK)
        distance *= 2
    if last >= HEAD:
        yield Piece(last, last + _BLOCK)


def _fake(card: OpenCard, capacity: int) -> BadCard:
    return BadCard(
        card.node,
        f"says it has {card.size >> 20} MiB, and keeps no more than {capacity >> 20} MiB",
        _FAKE,
        capacity,
    )
