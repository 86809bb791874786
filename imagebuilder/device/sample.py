"""Whether there is anything on parts of a card, by a sample of them.

All of a card would take half an hour to read. About 800 places take a second, on a card with 20 MB/s and a
millisecond for each: whole the start and the end of each part, where partition tables, RAID superblocks and
most file systems begin or leave a copy; and places all over it, most of them on whole MiB, where partitions
begin. What lies between two places is not seen.
"""

from collections.abc import Iterator, Sequence

from imagebuilder.image.untrusted import RawReader

MIB = 1 << 20
Span = tuple[int, int]
"""Bytes from start to end (exclusive) of a card."""

_POINT = 4096  # bytes; holds the magic of most formats, and of swap at its end
_BTRFS = 64 << 10  # bytes from its start to the superblock of btrfs, as of reiserfs and UFS
_CARD_START, _CARD_END = 4 * MIB, MIB  # of a card, read whole
_START, _END = MIB, 256 << 10  # of each part
_EVERY = 128  # MiB of which each begins with a place
_SPREAD = 384  # places at even distances over the card
_PIECE = MIB  # bytes read at once
_BLANK = (0x00, 0xFF)


def gaps(used: Sequence[Span], size: int) -> list[Span]:
    """What of a card of ``size`` bytes none of ``used`` covers, in order."""
    edges = sorted((max(0, low), min(size, high)) for low, high in used)
    left, start = [], 0
    for low, high in [*edges, (size, size)]:
        if low > start:
            left.append((start, low))
        start = max(start, high)
    return left


def places(part: Span, size: int) -> list[Span]:
    """What is read of a part of a card of ``size`` bytes: in order, and apart from each other."""
    low, high = part
    whole = [(0, _CARD_START), (size - _CARD_END, size), (low, low + _START), (high - _END, high)]
    cut = ((max(low, start), min(high, end)) for start, end in [*whole, *_points(size)])
    merged: list[Span] = []
    for start, end in sorted(one for one in cut if one[0] < one[1]):
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
        # Every other one lies inside what begins on a whole MiB: the content of a file, not only a header.
        at += (number * 7919 % 255 + 1) * _POINT if number % 2 else 0
        yield at, at + _POINT


def first_of_something(card: RawReader, part: Span) -> int | None:
    """Where in a part of a card the first byte is that says it is not blank; None when nothing says so.

    Blank is one value, 0x00 or 0xff, in all places that are read. Raises ReadError.
    """
    value = b""
    for start, end in places(part, card.size):
        for low in range(start, end, _PIECE):
            data = card.read(low, min(_PIECE, end - low))
            value = value or data[:1]
            if value[0] not in _BLANK:
                return low
            left = data.lstrip(value)
            if left:
                return low + len(data) - len(left)
    return None
