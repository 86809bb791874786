"""Find the differences between a card and the image to write, by reading only.

If an earlier run left its block map, and a sample shows that the card still contains that image, only the
pieces that differ between the two images are read: the rest is expected to be right, and is read after the
writing. Otherwise the whole card is sampled. A region that is mostly wrong is written without being read,
because reading it would cost more than it saves. In the other regions each piece is compared by its digest,
and only the differing blocks of a piece are written. Everything that counts as right is read again after the
last write.
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
_SAMPLES = 8  # per region
_SAMPLE = 32 << 10  # bytes
_BLOCK = 4096  # bytes; the unit in which differences are found
_GAP = 32 << 10  # bytes; two differences with a smaller gap are written as one
_TIMING = 0.03  # seconds of reading to measure the speed
_ENOUGH = 8  # pieces of a region, after which it is decided whether to read the rest
_PLACES = 60  # on a card, sampled to find out whether it contains what an earlier run wrote
_WHOLE = 4  # pieces read whole for the same purpose, in which the earlier image differs from the new one

Region = Sequence[Piece]


@dataclass(frozen=True)
class Differences:
    """The pieces to write, in order: whole pieces, or their differing blocks.

    ``expected`` is set when the rest was not read, because an earlier run wrote it.
    """

    pieces: Sequence[Piece]
    expected: bool = False


def find_differences(
    meter: Meter,
    card: OpenCard,
    source: ImageSource,
    reading: Reading,
    contents: Contents,
    earlier: Sequence[Region] = (),
) -> Differences:
    """Find the pieces, or parts of pieces, in which ``card`` differs from ``source``.

    ``earlier`` has the pieces of each image that the card may contain from an earlier run.
    Raises PiimgError when the image no longer matches its block map, Interrupted, or Gone.
    """
    for before in earlier:
        changed = _changed(source.pieces, before)
        if changed and _holds(meter, card, source.pieces, before, reading):
            with meter.task(COMPARE, _size(changed)) as task:
                parts = _compared(task, card, changed, reading, contents)
            if parts:
                return Differences(parts, expected=True)
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
            if differing:  # then everything is read again after the writing, which counts for the time left
                meter.ahead[WRITE], meter.ahead[READ_BACK] = _size(differing), _size(pieces)
    return Differences(differing)


def _changed(pieces: Region, before: Region) -> Region:
    """The ``pieces`` that are not in ``before``; none when there are too many for this to save time."""
    known = set(before)
    changed = [piece for piece in pieces if piece not in known]
    return changed if 4 * _size(changed) < _size(pieces) else ()


def _holds(meter: Meter, card: OpenCard, pieces: Region, before: Region, reading: Reading) -> bool:
    """Whether a sample of places shows that ``card`` contains the image with the pieces ``before``."""
    known, wanted = set(before), set(pieces)
    common = [piece for piece in pieces if piece in known]
    earlier_only = [piece for piece in before if piece not in wanted and piece.end <= card.size]
    samples = [
        Piece(piece.start, min(piece.end, piece.start + _SAMPLE)) for piece in _spread(common, _PLACES)
    ]
    samples += _spread(earlier_only, _WHOLE)
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
    """At most ``count`` of ``pieces``, at even distances."""
    return [pieces[len(pieces) * at // count] for at in range(count)] if len(pieces) > count else list(pieces)


def time_reading(meter: Meter, card: OpenCard, pieces: Region) -> None:
    """Measure for a moment how fast ``card`` reads, so that the time left can be estimated."""
    begun, count = time.monotonic(), 0
    with contextlib.closing(card.reads(pieces)) as steps:
        for piece, _, error in steps:
            took = time.monotonic() - begun
            if error is not None or took > _TIMING:
                break
            count += piece.size
            meter.reading = count / took


def _size(region: Region) -> int:
    return sum(piece.size for piece in region)


def _foreign(meter: Meter, card: OpenCard, regions: Sequence[Region], reading: Reading) -> set[int]:
    """The numbers of the regions in which more than half of the samples differ."""
    samples = [(number, piece) for number, region in enumerate(regions) for piece in _samples(region)]
    count, wrong = Counter(number for number, _ in samples), Counter[int]()
    with (
        meter.task(SAMPLE, sum(piece.size for _, piece in samples)) as task,
        contextlib.closing(card.reads(piece for _, piece in samples)) as steps,
    ):
        for (number, _), (piece, data, error) in zip(samples, steps, strict=True):
            meter.retries += error is not None  # it is read again in any case
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
    """What differs in a region; once most of what was read differs, also the rest of it, unread."""
    differing: list[Piece] = []
    with contextlib.closing(card.reads(region)) as steps:
        for number, (piece, data, error) in enumerate(steps, 1):
            if error is not None:
                task.meter.retries += 1  # writing may fix it, and it is read again after that
                differing.append(piece)
            elif not contents.has(data, piece.digest):
                differing += _differences(piece, bytes(data), reading.bytes_of(piece))
            task.advance(piece.size)
            if number == _ENOUGH and 2 * _size(differing) > _size(region[:number]):
                task.skip(_size(region[number:]))
                return [*differing, *region[number:]]
    return differing


def _differences(piece: Piece, have: bytes, wanted: bytes) -> Iterator[Piece]:
    """The differing parts of a piece, in whole blocks, with their digests."""
    blocks = range(0, piece.size, _BLOCK)
    for start, end in _joined(at for at in blocks if have[at : at + _BLOCK] != wanted[at : at + _BLOCK]):
        part = wanted[start : min(end, piece.size)]
        yield Piece(piece.start + start, piece.start + start + len(part), hashlib.sha256(part).digest())


def _joined(blocks: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Join the blocks that start at ``blocks`` to ranges (start, end); close ones become one range."""
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
