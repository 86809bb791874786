"""Allocated ranges of an image, from its file systems rather than from the holes of the file.

A hole may be in use: a block of zeros of a file system (an inode table, a file of zeros) must be written,
or a card keeps its old data there. So all bytes are in use, except those that are free according to a file
system that is known, undamaged and clean.
"""

import functools
import operator
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4
from imagebuilder.image.partitions import FAT_TYPES, LINUX_TYPE, Slice, read_table
from imagebuilder.image.untrusted import Damaged

GRAIN = 4096  # bytes; ranges in use are widened to whole blocks of this size

Span = tuple[int, int]
"""Bytes from start to end (exclusive), counted from the start of the image."""

_EXT_MAGIC_AT = 1024 + 56
_NUMBER = re.compile(rb"\d+")
_LOW_HALF = bytes(byte & 0x0F for byte in range(256))
_FREE_LIMIT = 256 << 20  # bytes of the list of free blocks; enough for 100 GB of them
_FREE_SECONDS = 600.0  # for looking through all block bitmaps
_TABLE_LIMIT = 64 << 20  # bytes of a FAT; enough for 500 GB in clusters of 32 KiB


class NotUnderstood(Exception):
    """The data is not a clean file system of the expected kind. Never leaves this package."""


def used_ranges(image: Path) -> list[Span]:
    """The ranges of an image that are in use: ordered, not adjacent, in whole blocks of ``GRAIN`` bytes.

    Bytes outside the partitions are in use, zeros included; so is the whole of a partition of an unknown
    kind, and the whole image if it has no MBR. The last range may end inside a block, at the end of the
    image. Raises PiimgError when the image cannot be read or a tool is missing.
    """
    try:
        with image.open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise PiimgError(f"{image} is not a file", "name an image file")
            size = stream.seek(0, os.SEEK_END)
            return list(_widened(_spans(image, stream, size), size))
    except OSError as error:
        raise PiimgError(
            f"cannot read {image}: {error.strerror}", "check the path and its permissions"
        ) from error


def _spans(image: Path, stream: BinaryIO, size: int) -> Iterator[Span]:
    """The ranges in use, unordered, from the partition table and the file systems."""
    slices = _slices(image, size)
    yield from _complement(((part.start, part.end) for part in slices), 0, size)
    for part in slices:
        if part.type in FAT_TYPES:
            yield from fat_used(stream, part.start, part.size)
        elif part.type == LINUX_TYPE:
            yield from ext4_used(image, part.start, part.size)
        else:
            yield part.start, part.end


def _slices(image: Path, size: int) -> list[Slice]:
    """The partitions inside the image; none if it has no valid table."""
    try:
        table = read_table(image)
    except PiimgError:
        return []
    return [part for part in table.slices if part.end <= size]


def ext4_used(path: Path, offset: int, size: int) -> list[Span]:
    """The ranges in use of the ext2, 3 or 4 file system in the ``size`` bytes at ``offset`` of an image.

    The whole partition if there is no file system, or if its bitmaps cannot be trusted: not cleanly
    unmounted, a journal to replay, inconsistent counts. Bytes outside the file system are in use.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset + _EXT_MAGIC_AT)
            if stream.read(2) != b"\x53\xef":
                raise NotUnderstood("no ext4 file system")
        free = _ext4_free(path, offset, size)
    except (NotUnderstood, Damaged):
        return [(offset, offset + size)]
    return list(_complement(((offset + start, offset + end) for start, end in free), offset, offset + size))


def _ext4_free(path: Path, offset: int, size: int) -> list[Span]:
    """The free ranges by debugfs, in bytes from the start of the file system.

    Raises NotUnderstood, or Damaged.
    """
    fields = ext4.superblock(path, offset)
    try:
        block, total, count = (int(fields[name]) for name in ("Block size", "Block count", "Free blocks"))
        features, state = fields["Filesystem features"].split(), fields["Filesystem state"]
    except (KeyError, ValueError):
        raise NotUnderstood("no superblock") from None
    if state != "clean" or "needs_recovery" in features:
        raise NotUnderstood("not cleanly unmounted")
    # Unknown features have no name. A read-only one (R) may change how blocks are counted, as bigalloc does.
    if any(re.fullmatch(r"FEATURE_[IR]\d+", name) for name in features):
        raise NotUnderstood("features that this tune2fs does not know")
    if not 0 <= count <= total or total * block > size:
        raise NotUnderstood("the free blocks do not add up")
    if count * (len(str(total)) + 1) > _FREE_LIMIT:
        raise NotUnderstood("too many free blocks to list")
    # Ask for one more block than counted: the list is complete if debugfs does not find it.
    (output,) = ext4.debugfs(path, offset, [f"ffb {count + 1} 0"], 2 * _FREE_LIMIT, _FREE_SECONDS)
    numbers = (int(match[0]) for match in _NUMBER.finditer(output, output.find(b":"))) if count else ()
    runs = list(_runs(numbers))
    listed = sum(end - start for start, end in runs)
    if listed != count or any(end > start for (_, end), (start, _) in pairwise([*runs, (total, total)])):
        raise NotUnderstood("the free blocks do not add up")
    return [(start * block, end * block) for start, end in runs]


def _runs(numbers: Iterable[int]) -> Iterator[Span]:
    """``numbers`` as ranges: from the first of a run to the one after its last."""
    start = end = -1
    for number in numbers:
        if number != end:
            if end >= 0:
                yield start, end
            start = number
        end = number + 1
    if end >= 0:
        yield start, end


@dataclass(frozen=True)
class FatGeometry:
    """The geometry of a FAT16 or FAT32 file system, in bytes from its start; ``clusters`` is a count.

    ``tables`` are the positions of the FATs and ``table`` is the size of a FAT; ``data`` is the position of
    the first cluster, ``cluster`` the size of a cluster.
    """

    tables: tuple[int, ...]
    table: int
    data: int
    cluster: int
    clusters: int
    wide: bool  # FAT32

    @property
    def entry(self) -> int:
        """Bytes of one entry of the FAT."""
        return 4 if self.wide else 2


def fat_used(stream: BinaryIO, offset: int, size: int) -> list[Span]:
    """The ranges in use of the FAT16 or FAT32 file system in the ``size`` bytes at ``offset`` of an image.

    In use are the reserved sectors, every FAT, the root directory of FAT16, each cluster whose entry is not
    free, and bytes outside the file system. The whole partition if it is not valid (or FAT12) or its FATs
    differ.
    """
    try:
        fat = fat_geometry(_read(stream, offset, 512), size)
        length = (fat.clusters + 2) * fat.entry
        if length > _TABLE_LIMIT:
            raise NotUnderstood("too many clusters to list")
        table = _read(stream, offset + fat.tables[0], length)
        if any(_read(stream, offset + at, length) != table for at in fat.tables[1:]):
            raise NotUnderstood("the FATs differ")
        free = list(_free_clusters(fat, table))
    except NotUnderstood:
        return [(offset, offset + size)]
    return list(_complement(((offset + start, offset + end) for start, end in free), offset, offset + size))


def fat_geometry(boot: bytes, size: int) -> FatGeometry:
    """Parse a boot sector by Microsoft's "FAT: General Overview of On-Disk Format" 1.03.

    FAT32 is recognized by its 16-bit FAT size of zero, as in Linux and mtools, not by the number of clusters,
    because small FAT32 file systems exist. Raises NotUnderstood.
    """
    sector, per_cluster, reserved, copies, root_entries, total16 = struct.unpack_from("<HBHBHH", boot, 11)
    (table16,) = struct.unpack_from("<H", boot, 22)
    total32, table32 = struct.unpack_from("<II", boot, 32)
    wide, total, table = table16 == 0, total16 or total32, table16 or table32
    sensible = sector in (512, 1024, 2048, 4096) and per_cluster in (1, 2, 4, 8, 16, 32, 64, 128)
    if boot[510:] != b"\x55\xaa" or not (sensible and reserved and copies and table) or total * sector > size:
        raise NotUnderstood("no boot sector")
    data = reserved + copies * table + -(-root_entries * 32 // sector)
    clusters = (total - data) // per_cluster
    if clusters < (1 if wide else 4085) or wide != (root_entries == 0):
        raise NotUnderstood("FAT12, or no FAT at all")
    tables = tuple((reserved + copy * table) * sector for copy in range(copies))
    fat = FatGeometry(tables, table * sector, data * sector, per_cluster * sector, clusters, wide)
    if (clusters + 2) * fat.entry > table * sector:
        raise NotUnderstood("the FAT does not cover the clusters")
    return fat


def _free_clusters(fat: FatGeometry, table: bytes) -> Iterator[Span]:
    """The runs of free clusters. Entry 2 is the first cluster; the top four bits of FAT32 are reserved."""
    columns = [table[2 * fat.entry + byte :: fat.entry] for byte in range(fat.entry)]
    if fat.wide:
        columns[3] = columns[3].translate(_LOW_HALF)
    # As large integers, the columns are combined by one fast operation, without a loop in Python.
    merged = functools.reduce(operator.or_, (int.from_bytes(column, "little") for column in columns))
    for run in re.finditer(b"\0+", merged.to_bytes(fat.clusters, "little")):
        yield fat.data + run.start() * fat.cluster, fat.data + run.end() * fat.cluster


def _read(stream: BinaryIO, position: int, count: int) -> bytes:
    stream.seek(position)
    data = stream.read(count)
    if len(data) != count:
        raise NotUnderstood("cut short")
    return data


def _complement(spans: Iterable[Span], start: int, end: int) -> Iterator[Span]:
    """The parts of ``start`` to ``end`` that no span covers."""
    for low, high in sorted(spans):
        if low > start:
            yield start, low
        start = max(start, high)
    if start < end:
        yield start, end


def left_out(used: Iterable[Span], spans: Iterable[Span]) -> Iterator[Span]:
    """The parts of ``used`` that none of ``spans`` covers; both are ordered and do not overlap."""
    waiting = iter(spans)
    span = next(waiting, None)
    for start, high in used:
        low = start
        while low < high and span is not None and span[0] < high:
            if low < span[0]:
                yield low, span[0]
            low = max(low, span[1])
            if span[1] < high:
                span = next(waiting, None)
            else:
                break
        if low < high:
            yield low, high


def _widened(spans: Iterable[Span], size: int) -> Iterator[Span]:
    """The spans in order, widened to whole blocks, joined if adjacent, and cut at ``size``."""
    return joined((low // GRAIN * GRAIN, min(-(-high // GRAIN) * GRAIN, size)) for low, high in spans)


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """The spans in order; those that touch or overlap are one."""
    start = end = 0
    for low, high in sorted(spans):
        if low > end:
            if end > start:
                yield start, end
            start = low
        end = max(end, high)
    if end > start:
        yield start, end
