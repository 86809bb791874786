"""What on a card differs from the image that it is to hold, found by reading only.

Where an earlier run left its block map, and a sample agrees that the card holds what that map says, only the
pieces are read that differ between the two images: the rest is expected to be right, and read after the
writing. Otherwise all is sampled. A region that is mostly wrong is written without being read, for that would
cost more than it saves. In the others each piece is compared by its digest, and of a piece that differs only
the blocks that do are written. What counts as right is always read again after the last write.
"""

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imagebuilder.card.contents import Contents
from imagebuilder.card.io import OpenCard
from imagebuilder.card.progress import COMPARE, READ_BACK, SAMPLE, WRITE, CardTask, Meter
from imagebuilder.card.source import ImageSource, Piece, Reading

_REGION = 64  # pieces
_SAMPLES = 8  # of a region
_SAMPLE = 32 << 10  # bytes
_BLOCK = 4096  # bytes; what differs is found in these
_GAP = 32 << 10  # bytes; with less between them two differences are written as one
_MOMENT = 0.3  # seconds
_ENOUGH = 8  # pieces of a region; by then it shows whether reading on is worth it
_PLACES = 60  # of a card that are sampled to learn whether it holds what an earlier run wrote
_WHOLE = 4  # pieces that are read whole for that: those in which the earlier image differs from the new one

Region = Sequence[Piece]


@dataclass(frozen=True)
class Differences:
    """What is to be written, in order: whole pieces, or the blocks of them that differ.

    ``expected`` when the rest was not read, because an earlier run wrote it.
    """

    pieces: Sequence[Piece]
    expected: bool = False


def what_differs(
    meter: Meter,
    card: OpenCard,
    source: ImageSource,
    reading: Reading,
    contents: Contents,
    earlier: Sequence[Region] = (),
) -> Differences:
    """The pieces, or parts of pieces, that ``card`` does not hold as it should.

    ``earlier`` are the pieces of images that the card may hold from an earlier run.
    Raises PiimgError when the image is not any more what its block map says, Interrupted, or Gone.
    """
    for before in earlier:
        changed = _changed(source.pieces, before)
        if changed and _holds(meter, card, source.pieces, before, reading):
            with meter.task(COMPARE, _size(changed)) as task:
                found = _compared(task, card, changed, reading, contents)
            if found:
                return Differences(found, expected=True)
            break
    pieces = source.pieces
    regions = [pieces[start : start + _REGION] for start in range(0, len(pieces), _REGION)]
    foreign = _foreign(meter, card, regions, reading)
    differing: list[Piece] = []
    to_read = sum(_size(region) for number, region in enumerate(regions) if number not in foreign)
    if not to_read:
        return Differences(pieces)
    with meter.task(COMPARE, to_read) as task:
        for number, region in enumerate(regions):
            differing += region if number in foreign else _compared(task, card, region, reading, contents)
            if differing:  # then all of it is read again after the writing, which the time left is to say
                meter.ahead[WRITE], meter.ahead[READ_BACK] = _size(differing), _size(pieces)
    return Differences(differing)


def _changed(pieces: Region, before: Region) -> Region:
    """The ``pieces`` that are not among those ``before``; none where they are too many to be worth it."""
    known = set(before)
    changed = [piece for piece in pieces if piece not in known]
    return changed if 4 * _size(changed) < _size(pieces) else ()


def _holds(meter: Meter, card: OpenCard, pieces: Region, before: Region, reading: Reading) -> bool:
    """Whether ``card`` holds what was written ``before``, as far as a sample of places shows."""
    known, wanted = set(before), set(pieces)
    common = [piece for piece in pieces if piece in known]
    own = [piece for piece in before if piece not in wanted and piece.end <= card.size]
    samples = [Piece(one.start, min(one.end, one.start + _SAMPLE)) for one in _spread(common, _PLACES)]
    samples += _spread(own, _WHOLE)
    with (
        meter.task(SAMPLE, _size(samples)) as task,
        contextlib.closing(card.reads(samples)) as steps,
    ):
        for piece, data, error in steps:
            if error is not None:
                return False
            right = (
                hashlib.sha256(data).digest() == piece.digest
                if piece.digest
                else data == reading.bytes_of(piece)
            )
            if not right:
                return False
            task.advance(piece.size)
    return True


def _spread(pieces: Region, count: int) -> list[Piece]:
    """At most ``count`` of ``pieces``, evenly spread."""
    return [pieces[len(pieces) * at // count] for at in range(count)] if len(pieces) > count else list(pieces)


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
    task: CardTask, card: OpenCard, region: Region, reading: Reading, contents: Contents
) -> list[Piece]:
    """What differs in a region; all that is left of it once most of what was read does."""
    found: list[Piece] = []
    with contextlib.closing(card.reads(region)) as steps:
        for number, (piece, data, error) in enumerate(steps, 1):
            if error is not None:
                task.meter.retries += 1  # it is written, which may fix it, and then read again
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
