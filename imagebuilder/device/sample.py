"""Check by a sample whether parts of a card contain data.

Reading all of a card would take half an hour. Reading about 800 places takes a second, on a card with 20 MB/s
and one millisecond per access. The sample has the whole start and end of each part, where partition tables,
RAID superblocks and most file systems begin or have a copy, and places all over the part, most of them at
multiples of a MiB, where partitions begin. Data between two places is not detected.
"""

from collections.abc import Iterator, Sequence

from imagebuilder.image.untrusted import RawReader

MIB = 1 << 20
Span = tuple[int, int]
"""Bytes from start to end (exclusive) of a card."""

_POINT = 4096  # bytes; contains the magic of most formats, for swap at the end
_BTRFS = 64 << 10  # bytes from its start to the superblock of btrfs, as of reiserfs and UFS
_CARD_START, _CARD_END = 4 * MIB, MIB  # bytes of a card that are read completely
_START, _END = MIB, 256 << 10  # bytes of each part that are read completely
_EVERY = 128  # the first MiB of a card, each of which has a place at its start
_SPREAD = 384  # places at equal distances over the card
_PIECE = MIB  # bytes per read
_BLANK = (0x00, 0xFF)


def gaps(used: Sequence[Span], size: int) -> list[Span]:
    """The spans of a card of ``size`` bytes that ``used`` does not cover, in order."""
    edges = sorted((max(0, low), min(size, high)) for low, high in used)
    left, start = [], 0
    for low, high in [*edges, (size, size)]:
        if low > start:
            left.append((start, low))
        start = max(start, high)
    return left


def places(part: Span, size: int) -> list[Span]:
    """The spans to read of a part of a card of ``size`` bytes, in order and without overlap."""
    low, high = part
    whole = [(0, _CARD_START), (size - _CARD_END, size), (low, low + _START), (high - _END, high)]
    cut = ((max(low, start), min(high, end)) for start, end in [*whole, *_points(size)])
    merged: list[Span] = []
    for start, end in sorted(span for span in cut if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _points(size: int) -> Iterator[Span]:
    numbers = {*range(_EVERY), *(odd << power for power in range(21) for odd in (1, 3, 5, 7))}
    for mib in numbers:
        for at in (mib * MIB, mib * MIB + _BTRFS):
            yield at, at + _POINT
    for number in range(_SPREAD):
        at = size * number // _SPREAD // MIB * MIB
        # Every second place is inside a MiB, to read the content of a file and not only a header.
        at += (number * 7919 % 255 + 1) * _POINT if number % 2 else 0
        yield at, at + _POINT


def first_data(card: RawReader, part: Span) -> int | None:
    """The offset of the first byte in a part of a card that is not blank; None when all places are blank.

    Blank means one value, 0x00 or 0xff, in all places that are read. Raises ReadError.
    """
    value = b""
    for start, end in places(part, card.size):
        for low in range(start, end, _PIECE):
            data = card.read(low, min(_PIECE, end - low))
            value = value or data[:1]
            if value[0] not in _BLANK:
                return low
            rest = data.lstrip(value)
            if rest:
                return low + len(data) - len(rest)
    return None
