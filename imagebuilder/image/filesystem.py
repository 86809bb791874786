"""FAT and exFAT file systems by their own tables, without mounting them.

mtools do not support exFAT, and do not report used clusters that belong to no file. Every read is bounded:
names, folders, clusters, bytes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from imagebuilder.image import exfat, fat
from imagebuilder.image.directory import DirectoryEntry
from imagebuilder.image.untrusted import InvalidFormat, RawReader

_FOLDERS = 1000  # limit of folders that are entered


class FileSystem(Protocol):
    """A FAT or exFAT file system. Its methods raise InvalidFormat and ReadError."""

    @property
    def path(self) -> Path:
        """The card or image that contains it."""

    @property
    def spans(self) -> Sequence[tuple[int, int]]:
        """Its ranges, including free clusters: bytes from start to end (exclusive) of the card."""

    @property
    def own(self) -> frozenset[int]:
        """The clusters of its own structures, such as the root folder."""

    def root(self) -> Iterator[DirectoryEntry]:
        """The entries of its root folder, without the volume label."""

    def inside(self, folder: DirectoryEntry) -> Iterator[DirectoryEntry]:
        """The entries of a folder."""

    def clusters(self, entry: DirectoryEntry) -> frozenset[int]:
        """The clusters of a file or folder."""

    def uses_more_than(self, clusters: frozenset[int]) -> bool:
        """Whether any other cluster than these is in use."""


def file_system(card: RawReader, offset: int, size: int) -> FileSystem | None:
    """The FAT or exFAT file system in the ``size`` bytes at ``offset``; None without its boot sector.

    Raises InvalidFormat if it is not valid, and ReadError.
    """
    if size < 512 or offset + 512 > card.size:
        return None
    boot = card.read(offset, 512)
    if exfat.is_boot(boot):
        return exfat.ExFat(card, offset, min(size, card.size - offset), boot)
    if fat.is_boot(boot):
        return fat.FatFileSystem(card, offset, min(size, card.size - offset), boot)
    return None


def walk(system: FileSystem, enter: Callable[[str], bool]) -> Iterator[tuple[str, DirectoryEntry]]:
    """Each path and its entry, breadth first; the path of a folder ends with a slash.

    A folder is entered if ``enter`` returns True for its path. Raises InvalidFormat when folders form a loop
    or share clusters, or when there are too many; and ReadError.
    """
    waiting: deque[tuple[str, Iterator[DirectoryEntry]]] = deque([("", system.root())])
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
                raise InvalidFormat(system.path, "its folders are not valid")
            seen |= clusters
            waiting.append((path, system.inside(entry)))
