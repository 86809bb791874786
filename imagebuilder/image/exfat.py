"""Reader of exFAT file systems, with which larger cards are sold.

By Microsoft's "exFAT file system specification" (2019): the boot sector (3.1), the FAT (4.1), directory
entries of 32 bytes (6), among them the allocation bitmap (7.1) and the up-case table (7.2). An entry 0x85
begins a file, the next 0xC0 has its clusters, each 0xC1 has 15 letters of its name (7.4, 7.6, 7.7).
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.image.directory import CLUSTERS, SIZE, DirectoryEntry, chain, raw_entries
from imagebuilder.image.untrusted import InvalidFormat, RawReader

_SIGN = b"EXFAT   "  # at byte 3 of the boot sector
_BITMAP, _UPCASE, _FILE, _STREAM, _NAME = 0x81, 0x82, 0x85, 0xC0, 0xC1
_SECONDARY = 0xC0  # both bits: one more entry of the same file
_FOLDER, _NO_CHAIN = 0x10, 0x02
_BAD = 0xFFFFFFF7  # in the FAT: larger numbers are not clusters
_LARGEST = 8 << 20  # bytes; the limit for an allocation bitmap
_BOOT = 24  # sectors: the boot region and its copy


def is_boot(sector: bytes) -> bool:
    """Whether 512 bytes are the boot sector of an exFAT file system, by its name."""
    return sector[3:11] == _SIGN


class ExFat:
    """The exFAT file system in the ``size`` bytes at ``offset`` of a card, with the boot sector ``boot``.

    Raises InvalidFormat for one that is damaged or too large; and ReadError.
    """

    def __init__(self, card: RawReader, offset: int, size: int, boot: bytes) -> None:
        self.path: Path = card.path
        self._card, self._offset = card, offset
        fat, fat_length, heap, self._count, root = struct.unpack_from("<5I", boot, 80)
        sector, sectors, tables = boot[108], boot[109], boot[110]  # the first two as powers of two
        if not (9 <= sector <= 12 and sector + sectors <= 25 and tables == 1) or boot[11:64].strip(b"\0"):
            raise self._invalid()
        self._cluster, self._fat = 1 << (sector + sectors), offset + (fat << sector)
        self._heap = offset + (heap << sector)
        fat_end, end = (fat + fat_length) << sector, (heap << sector) + self._count * self._cluster
        if not (
            _BOOT << sector <= fat << sector < fat_end <= heap << sector < end <= size
            and (self._count + 2) * 4 <= fat_length << sector
        ):
            raise self._invalid()
        end = size if size - end < self._cluster else end  # a partial cluster cannot be used
        self.spans = (
            (offset, offset + (_BOOT << sector)),
            (self._fat, offset + fat_end),
            (self._heap, offset + end),
        )
        self._root = list(raw_entries(card, self._places(chain(card, root, self._count, self._following))))
        self._bitmap, own = b"", set(chain(card, root, self._count, self._following))
        for raw in self._root:
            if raw[0] in (_BITMAP, _UPCASE):
                first, length = struct.unpack_from("<IQ", raw, 20)
                own.update(chain(card, first, self._count, self._following))
                if raw[0] == _BITMAP:
                    self._bitmap = self._read_bitmap(first, length)
        if not self._bitmap:
            raise self._invalid()
        self.own = frozenset(own)

    def root(self) -> Iterator[DirectoryEntry]:
        """The entries of the root folder."""
        return self._entries(iter(self._root))

    def inside(self, folder: DirectoryEntry) -> Iterator[DirectoryEntry]:
        """The entries of a folder."""
        return self._entries(raw_entries(self._card, self._places(self._clusters(folder))))

    def clusters(self, entry: DirectoryEntry) -> frozenset[int]:
        """The clusters of a file or folder."""
        return frozenset(self._clusters(entry))

    def uses_more_than(self, clusters: frozenset[int]) -> bool:
        """Whether any other cluster is in use, a bad one included. The lowest bit of a byte is the first."""
        for match in re.finditer(rb"[^\0]", self._bitmap):
            first = match.start() * 8 + 2
            for bit in range(8):
                used = match[0][0] >> bit & 1 and first + bit < self._count + 2
                if used and first + bit not in clusters:
                    return True
        return False

    def _read_bitmap(self, first: int, length: int) -> bytes:
        if not -(-self._count // 8) <= length <= _LARGEST:
            raise self._invalid()
        data = bytearray()
        for position, size in self._places(chain(self._card, first, self._count, self._following)):
            if len(data) >= length:
                break
            data += self._card.read(position, min(size, length - len(data)))
        if len(data) < length:
            raise self._invalid()
        return bytes(data)

    def _number(self, cluster: int) -> int:
        return int.from_bytes(self._card.read(self._fat + 4 * cluster, 4), "little")

    def _following(self, cluster: int) -> int | None:
        after = self._number(cluster)
        return None if after > _BAD else after

    def _clusters(self, entry: DirectoryEntry) -> Iterator[int]:
        if not entry.first:
            return iter(())
        if not entry.run:
            return chain(self._card, entry.first, self._count, self._following)
        end = entry.first + entry.run
        if entry.first < 2 or end > self._count + 2 or entry.run > CLUSTERS:
            raise self._invalid()
        return iter(range(entry.first, end))

    def _places(self, clusters: Iterator[int]) -> Iterator[tuple[int, int]]:
        for cluster in clusters:
            yield self._heap + (cluster - 2) * self._cluster, self._cluster

    def _entries(self, raws: Iterator[bytes]) -> Iterator[DirectoryEntry]:
        parts: list[bytes] = []  # of the file whose entries these are
        for raw in raws:
            if raw[0] & _SECONDARY == _SECONDARY:
                parts += [raw] if parts else []
                continue
            if parts:
                yield self._entry(parts)
            parts = [raw] if raw[0] == _FILE else []
        if parts:
            yield self._entry(parts)

    def _entry(self, parts: list[bytes]) -> DirectoryEntry:
        (attributes,) = struct.unpack_from("<H", parts[0], 4)
        stream = next((part for part in parts if part[0] == _STREAM), bytes(SIZE))
        first, length = struct.unpack_from("<IQ", stream, 20)
        run = -(-length // self._cluster) if stream[1] & _NO_CHAIN else 0
        name = b"".join(part[2:] for part in parts if part[0] == _NAME)
        text = name.decode("utf-16-le", "replace").partition("\0")[0]
        return DirectoryEntry(text, bool(attributes & _FOLDER), first if length else 0, run)

    def _invalid(self) -> InvalidFormat:
        return InvalidFormat(self._card.path, "its exFAT file system is not valid")
