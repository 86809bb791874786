"""Directory entries and cluster chains, as FAT and exFAT have in common."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from imagebuilder.image.untrusted import InvalidFormat, RawReader

SIZE = 32  # bytes of an entry on the medium, in both
CLUSTERS = 1 << 16  # the limit for a file or folder
_FOLDER = 4 << 20  # bytes; the limit for a folder
_PIECE = 64 << 10  # bytes read of a folder at once


@dataclass(frozen=True)
class DirectoryEntry:
    """A file or folder. ``first`` is its first cluster, 0 if it has none.

    ``run`` is the number of contiguous clusters if they are not in the table (exFAT), else 0.
    """

    name: str
    is_folder: bool
    first: int
    run: int = 0


def chain(card: RawReader, first: int, count: int, following: Callable[[int], int | None]) -> Iterator[int]:
    """The chain of clusters from ``first`` on; ``following`` returns the next, None after the last.

    ``count`` is the number of clusters of the file system; they are numbered from 2. Raises InvalidFormat
    when a cluster is out of range or occurs twice, or when the chain is too long.
    """
    seen: set[int] = set()
    cluster: int | None = first
    while cluster is not None:
        if not 2 <= cluster < count + 2 or cluster in seen or len(seen) >= CLUSTERS:
            raise InvalidFormat(card.path, "its allocation table is not valid")
        seen.add(cluster)
        yield cluster
        cluster = following(cluster)


def raw_entries(card: RawReader, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The entries of a folder in ``places`` (position and length in bytes), up to its end mark."""
    read = 0
    for position, length in places:
        for at in range(position, position + length, _PIECE):
            piece = card.read(at, min(_PIECE, position + length - at))
            read += len(piece)
            if read > _FOLDER:
                raise InvalidFormat(card.path, "a folder is too large to be examined")
            for start in range(0, len(piece) - SIZE + 1, SIZE):
                if piece[start] == 0:
                    return
                yield piece[start : start + SIZE]
