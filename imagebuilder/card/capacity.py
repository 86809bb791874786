"""Check the capacity of a card before the long write, with a few blocks at growing distances.

A card with a fake capacity either wraps round (data written beyond its real end is stored somewhere before
it), or discards that data. Markers at doubling distances detect both, as in f3probe, which also assumes that
a card wraps round at a power of two. Up to the end of the image, wrapping round at any other place is
detected too: there the start of the card appears again. So no write elsewhere can overwrite data that was
already compared and counted as right.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

from imagebuilder.card import retry
from imagebuilder.card.io import BadCard, OpenCard
from imagebuilder.card.progress import PROBE, Meter
from imagebuilder.card.source import HEAD, Piece
from imagebuilder.card.target import TABLE
from imagebuilder.system import blockdev

_BLOCK = 4096  # bytes
_CHUNK = 64 << 10  # bytes
_SECTOR = 512  # bytes; a card wraps round at a multiple of it
_SIGN = 8  # bytes; enough to distinguish sectors of random bytes
_FAKE = "it is a fake: do not use it"
_WORN = "it is worn out: use another card"


def mark_and_probe(meter: Meter, card: OpenCard, length: int, line: bytes, end: int) -> bytes:
    """Make the card unbootable by random bytes in its first ``length`` bytes, and check its capacity.

    ``line`` comes first, as ``marked`` has it. The card is searched for an echo up to byte ``end``. Returns
    the first block that is at its start now. Raises BadCard, CardError.
    """
    mark = marked(length, line)
    retry.write(meter, card, Piece(0, length), mark)
    card.flush()
    with meter.task(PROBE, length):
        check_capacity(meter, card, mark)
        check_no_echo(card, mark, end)
    return bytes(mark[:TABLE])


def marked(length: int, line: bytes) -> memoryview:
    """The content of the head while the body is written: random, so that no block of an image equals it.

    ``line`` comes first and names the node that is being written; a later run finds it after a power failure.
    There is no MBR signature (bytes 510 and 511), so the card does not boot.
    """
    mark = blockdev.buffer(length)
    for at in range(0, length, _CHUNK):
        mark[at : at + _CHUNK] = os.urandom(min(_CHUNK, length - at))
    mark[: len(line)] = line
    mark[510:512] = bytes(2)
    return mark


def check_capacity(meter: Meter, card: OpenCard, mark: memoryview) -> None:
    """Write markers to the ``places`` of ``card``, read them back, and put back what was there.

    ``mark`` was written to the start before: random bytes, which must still be there. The bytes that are put
    back are not read again: the caller must write those in use again. Raises BadCard when data is not where
    it was written, CardError when it cannot be written.
    """
    # A place that cannot be read gets no marker: if it is in use, writing to it later may fix it.
    before = {piece: bytes(data) for piece, data, error in card.reads(places(card.size)) if error is None}
    markers = {piece: os.urandom(_BLOCK) for piece in before}
    head = Piece(0, len(mark))
    for piece, marker in markers.items():
        meter.heed_stop()
        retry.write(meter, card, piece, marker)
    retry.write(
        meter, card, head, mark
    )  # overwrites markers that wrapped round to here, and fills a small cache
    card.flush()
    bad = retry.fault(card, head, mark) and retry.read(meter, card, head, mark)
    if bad is not None:
        raise bad
    missing = [piece for piece in markers if _is_missing(meter, card, piece, markers[piece])]
    if missing:
        raise _fault(card, mark, list(markers), missing)
    for piece, content in before.items():
        meter.heed_stop()
        retry.write(meter, card, piece, content)


def _is_missing(meter: Meter, card: OpenCard, piece: Piece, marker: bytes) -> bool:
    return retry.fault(card, piece, marker) is not None and retry.read(meter, card, piece, marker) is not None


def _fault(card: OpenCard, mark: memoryview, written: Sequence[Piece], missing: Sequence[Piece]) -> BadCard:
    """The error when the markers at ``missing`` are not there; ``written`` are the places of all markers."""
    offset = missing[0].start
    echo = bytes(mark).find(card.read(missing[0]))
    if echo >= 0:  # the start of the card appears here too
        return _fake(card, offset - echo)
    if len(missing) > 1 or missing[0] == written[-1]:
        return _fake(card, offset)
    return BadCard(card.node, f"does not keep data written at byte {offset}", _WORN, offset)


def check_no_echo(card: OpenCard, mark: memoryview, end: int) -> None:
    """Search the card up to byte ``end`` for a copy of the ``mark`` at its start: there it wraps round.

    The distance of the blocks is such that each whole copy of the mark contains one of them; the last block
    covers a copy that reaches beyond the end. Raises BadCard.
    """
    last = card.padded(end) - _BLOCK
    if last < len(mark):
        return  # almost nothing is behind the head
    echoes = {bytes(mark[at : at + _SIGN]): at for at in range(0, len(mark), _SECTOR)}
    spots = [*range(len(mark), last, len(mark) - _BLOCK), last]
    with contextlib.closing(card.glances(spots, _BLOCK)) as steps:
        for place, block in steps:
            for within in range(0, _BLOCK if place == last else 1, _SECTOR):
                at = echoes.get(bytes(block[within : within + _SIGN]))
                if at is not None and block[within : within + _SECTOR] == mark[at : at + _SECTOR]:
                    raise _fake(card, place + within - at)


def places(size: int) -> Iterator[Piece]:
    """Blocks at 1 MiB, 2 MiB, 4 MiB, … and at the very end of a card of ``size`` bytes."""
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
        f"claims {card.size >> 20} MiB, and keeps no more than {capacity >> 20} MiB",
        _FAKE,
        capacity,
    )
