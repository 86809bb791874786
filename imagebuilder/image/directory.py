"""One entry of a folder of a FAT or exFAT file system, and what both have in common."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from imagebuilder.image.untrusted import InvalidFormat, RawReader

SIZE = 32  # bytes of an entry on the medium, in both
CLUSTERS = 1 << 16  # of one file or folder that are followed
_FOLDER = 4 << 20  # bytes of one folder that are looked at
_PIECE = 64 << 10  # bytes read of a folder at once


@dataclass(frozen=True)
class DirectoryEntry:
    """A file or folder. ``first`` is its first cluster, 0 when it has none.

    ``run`` is how many clusters follow each other where no table says so (exFAT), else 0.
    """

    name: str
    is_folder: bool
    first: int
    run: int = 0


def chain(card: RawReader, first: int, count: int, following: Callable[[int], int | None]) -> Iterator[int]:
    """The clusters from ``first`` on, in their order; ``following`` gives the next, None after the last.

    ``count`` is how many the file system has; they are numbered from 2. Raises InvalidFormat when one is
    none of them, comes twice, or when there are more than are followed.
    """
    seen: set[int] = set()
    cluster: int | None = first
    while cluster is not None:
        if not 2 <= cluster < count + 2 or cluster in seen or len(seen) >= CLUSTERS:
            raise InvalidFormat(card.path, "its allocation table makes no sense")
        seen.add(cluster)
        yield cluster
        cluster = following(cluster)


def raw_entries(card: RawReader, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The entries of a folder that lies in ``places`` (position and length in bytes), up to its end mark."""
    read = 0
    for position, length in places:
        for at in range(position, position + length, _PIECE):
            piece = card.read(at, min(_PIECE, position + length - at))
            read += len(piece)
            if read > _FOLDER:
                raise InvalidFormat(card.path, "a folder of it is too large to be looked through")
            for start in range(0, len(piece) - SIZE + 1, SIZE):
                if piece[start] == 0:
                    return
                yield piece[start : start + SIZE]
