"""What a FAT or exFAT file system holds by its own tables, without mounting it.

mtools does not know exFAT, and says nothing of clusters that are in use and belong to no file. Everything
that is read is bounded: names, folders, clusters, bytes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from imagebuilder.image import exfat, fat
from imagebuilder.image.entries import Entry
from imagebuilder.image.looking import Looked, Nonsense

_FOLDERS = 1000  # looked into at most


class FileSystem(Protocol):
    """A FAT or exFAT file system. Its methods raise Nonsense and Unread."""

    @property
    def path(self) -> Path:
        """The card or image it is on."""

    @property
    def spans(self) -> Sequence[tuple[int, int]]:
        """What belongs to it, its free clusters too: bytes from start to end (exclusive) of the card."""

    @property
    def own(self) -> frozenset[int]:
        """The clusters that it needs itself: the root folder, and the like."""

    def root(self) -> Iterator[Entry]:
        """What is in its root folder; no volume label."""

    def inside(self, folder: Entry) -> Iterator[Entry]:
        """What is in a folder."""

    def clusters(self, entry: Entry) -> frozenset[int]:
        """The clusters of a file or folder."""

    def uses_more_than(self, clusters: frozenset[int]) -> bool:
        """Whether any other cluster than these is in use."""


def file_system(card: Looked, offset: int, size: int) -> FileSystem | None:
    """The FAT or exFAT file system in the ``size`` bytes at ``offset``; None where no boot sector is one's.

    Raises Nonsense when there is one that cannot be made out, and Unread.
    """
    if size < 512 or offset + 512 > card.size:
        return None
    boot = card.read(offset, 512)
    if exfat.is_boot(boot):
        return exfat.ExFat(card, offset, min(size, card.size - offset), boot)
    if fat.is_boot(boot):
        return fat.Fat(card, offset, min(size, card.size - offset), boot)
    return None


def walk(system: FileSystem, enter: Callable[[str], bool]) -> Iterator[tuple[str, Entry]]:
    """Each path and its entry, what is at the top first; the path of a folder ends with a slash.

    A folder is looked into when ``enter`` says so of its path. Raises Nonsense when folders go round in a
    circle or share their clusters, or when there are too many; and Unread.
    """
    waiting: deque[tuple[str, Iterator[Entry]]] = deque([("", system.root())])
    seen, count = set(system.own), 0
    while waiting:
        above, entries = waiting.popleft()
        for entry in entries:
            path = f"{above}{entry.name}{'/' if entry.is_folder else ''}"
            yield path, entry
            if not (entry.is_folder and enter(path)):
                continue
            clusters, count = system.clusters(entry), count + 1
            if clusters & seen or count > _FOLDERS:
                raise Nonsense(system.path, "its folders make no sense")
            seen |= clusters
            waiting.append((path, system.inside(entry)))
