"""What on a card is wrong: a sample first, then only the regions that look right are read.

A region that is mostly wrong is written without being read, for that would cost more than it saves. In the
others each piece is judged by its digest, and of one that differs only the blocks that do are written.
Nothing is trusted: what counts as right was read from the card, past the page cache, in this very run.
"""

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from imagebuilder.card.contents import Contents
from imagebuilder.card.meter import COMPARE, SAMPLE, Meter, Task
from imagebuilder.card.opened import OpenCard
from imagebuilder.card.source import Piece, Reading, Source

_REGION = 64  # pieces
_SAMPLES = 8  # of a region
_SAMPLE = 32 << 10  # bytes
_BLOCK = 4096  # bytes; what differs is found in these
_GAP = 32 << 10  # bytes; with less between them two differences are written as one
_MOMENT = 0.3  # seconds
_ENOUGH = 8  # pieces of a region; by then it shows whether reading on is worth it

Region = Sequence[Piece]


def what_differs(
    meter: Meter, card: OpenCard, source: Source, reading: Reading, contents: Contents
) -> list[Piece]:
    """The pieces, or parts of pieces, that ``card`` does not hold as it should, in order.

    Raises PiimgError when the image is not any more what its block map says, Interrupted, or Gone.
    """
    pieces = source.pieces
    regions = [pieces[start : start + _REGION] for start in range(0, len(pieces), _REGION)]
    foreign = _foreign(meter, card, regions, reading)
    found: list[Piece] = []
    to_read = sum(_size(region) for number, region in enumerate(regions) if number not in foreign)
    if not to_read:
        return list(pieces)
    with meter.task(COMPARE, to_read) as task:
        for number, region in enumerate(regions):
            found += region if number in foreign else _compared(task, card, region, reading, contents)
    return found


def time_reading(meter: Meter, card: OpenCard, pieces: Region) -> None:
    """Read for a moment to learn how fast ``card`` reads: without that nobody could tell the time left."""
    begun, count = time.monotonic(), 0
    with contextlib.closing(card.reads(pieces)) as steps:
        for piece, _, error in steps:
            took = time.monotonic() - begun
            if error is not None or took > _MOMENT:
                break
            count += piece.size
            meter.reading = count / took


def _size(region: Region) -> int:
    return sum(piece.size for piece in region)


def _foreign(meter: Meter, card: OpenCard, regions: Sequence[Region], reading: Reading) -> set[int]:
    """The regions of which more than half of the samples differ."""
    samples = [(number, piece) for number, region in enumerate(regions) for piece in _samples(region)]
    count, wrong = Counter(number for number, _ in samples), Counter[int]()
    with (
        meter.task(SAMPLE, sum(piece.size for _, piece in samples)) as task,
        contextlib.closing(card.reads(piece for _, piece in samples)) as steps,
    ):
        for (number, _), (piece, data, error) in zip(samples, steps, strict=True):
            meter.retries += error is not None  # whatever is decided, it is read again
            wrong[number] += error is not None or data != reading.bytes_of(piece)
            task.advance(piece.size)
    return {number for number in wrong if 2 * wrong[number] > count[number]}


def _samples(region: Region) -> Iterator[Piece]:
    step = max(1, len(region) // _SAMPLES)
    for piece in region[step // 2 :: step]:
        yield Piece(piece.start, min(piece.end, piece.start + _SAMPLE))


def _compared(
    task: Task, card: OpenCard, region: Region, reading: Reading, contents: Contents
) -> list[Piece]:
    """What differs in a region; all that is left of it once most of what was read does."""
    found: list[Piece] = []
    with contextlib.closing(card.reads(region)) as steps:
        for number, (piece, data, error) in enumerate(steps, 1):
            if error is not None:
                task.meter.retries += 1  # it is written, which may mend it, and then read again
                found.append(piece)
            elif not contents.has(data, piece.digest):
                found += _differences(piece, bytes(data), reading.bytes_of(piece))
            task.advance(piece.size)
            if number == _ENOUGH and 2 * _size(found) > _size(region[:number]):
                task.skip(_size(region[number:]))
                return [*found, *region[number:]]
    return found


def _differences(piece: Piece, have: bytes, wanted: bytes) -> Iterator[Piece]:
    """The parts of a piece that differ, in whole blocks, with their digests."""
    blocks = range(0, piece.size, _BLOCK)
    for start, end in _joined(at for at in blocks if have[at : at + _BLOCK] != wanted[at : at + _BLOCK]):
        part = wanted[start : min(end, piece.size)]
        yield Piece(piece.start + start, piece.start + start + len(part), hashlib.sha256(part).digest())


def _joined(blocks: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Blocks, told by where they start, as (start, end); those close to each other as one."""
    start = end = -1
    for block in blocks:
        if start >= 0 and block - end > _GAP:
            yield start, end
            start = block
        elif start < 0:
            start = block
        end = block + _BLOCK
    if start >= 0:
        yield start, end
