"""Which bytes of an image are in use, asked of its file systems rather than of the file's holes.

A hole is not "don't care": a block of zeros that a file system uses (an inode table, a file of zeros) must be
written too, or a card that held other data before keeps its old bytes there. So everything counts as in
use except what a file system that is understood, whole and clean calls free.
"""

import operator
import os
import re
import stat
import struct
import sys
from array import array
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
_FREE_LIMIT = 256 << 20  # bytes of the list of free blocks; enough for 100 GB of them
_FREE_SECONDS = 600.0  # for looking through all block bitmaps
_TABLE_LIMIT = 64 << 20  # bytes of a FAT; enough for 500 GB in clusters of 32 KiB


class NotUnderstood(Exception):
    """What is there is not a clean file system of the expected kind; never leaves this wing."""


def used_ranges(image: Path) -> list[Span]:
    """The ranges of an image that are in use: ordered, apart from each other, in whole blocks of ``GRAIN``.

    What lies outside the partitions is in use, zeros included; so is the whole of a partition that is not
    understood, and the whole image when it has no MBR. The last range may end inside a block: at the end of
    the image. Raises PiimgError when the image cannot be read or a tool is missing.
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
    """The ranges in use, in no order, as the table and the file systems say."""
    slices = _slices(image, size)
    yield from _complement(((one.start, one.end) for one in slices), 0, size)
    for one in slices:
        if one.type in FAT_TYPES:
            yield from fat_used(stream, one.start, one.size)
        elif one.type == LINUX_TYPE:
            yield from ext4_used(image, one.start, one.size)
        else:
            yield one.start, one.end


def _slices(image: Path, size: int) -> list[Slice]:
    """The partitions that lie inside the image; none when it has no table that is understood."""
    try:
        table = read_table(image)
    except PiimgError:
        return []
    return [one for one in table.slices if one.end <= size]


def ext4_used(path: Path, offset: int, size: int) -> list[Span]:
    """The ranges in use of the ext2, 3 or 4 file system in the ``size`` bytes at ``offset`` of an image.

    The whole partition when there is none, or when its bitmaps may not be trusted: not cleanly unmounted, a
    journal to replay, lists that do not add up. What the file system does not cover is in use.
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
    """The free ranges as debugfs finds them, in bytes from the start of the file system.

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
    # Unknown features have no name. One of writing (R) may be of how blocks are counted, as bigalloc is.
    if any(re.fullmatch(r"FEATURE_[IR]\d+", name) for name in features):
        raise NotUnderstood("features that this tune2fs does not know")
    if not 0 <= count <= total or total * block > size:
        raise NotUnderstood("the free blocks do not add up")
    if count * (len(str(total)) + 1) > _FREE_LIMIT:
        raise NotUnderstood("too many free blocks to list")
    # One more than there should be: that it is not found says that those are all.
    (said,) = ext4.debugfs(path, offset, [f"ffb {count + 1} 0"], 2 * _FREE_LIMIT, _FREE_SECONDS)
    numbers = (int(found[0]) for found in _NUMBER.finditer(said, said.find(b":"))) if count else ()
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
    """The geometry of a FAT16 or FAT32 file system: in bytes from its start, but ``clusters`` is a count.

    ``tables`` is where each FAT starts and ``table`` the size of one; ``data`` is where the clusters start.
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
    free, and what the file system does not cover. The whole partition when it is not understood (FAT12
    included) or its FATs differ.
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
    """Read a boot sector as Microsoft's "FAT: General Overview of On-Disk Format" 1.03 lays it out.

    FAT32 is told by its 16-bit FAT size of zero, as Linux and mtools do, not by the count of clusters: small
    ones exist. Raises NotUnderstood.
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
    """The runs of free clusters. Entry 2 is the first cluster's; FAT32 leaves the top four bits to others."""
    entries = array("I" if fat.wide else "H", table[2 * fat.entry :])
    if sys.byteorder == "big":
        entries.byteswap()
    mask = 0x0FFFFFFF if fat.wide else 0xFFFF
    free = bytes(map(operator.not_, map(mask.__and__, entries)))  # a byte a cluster: one where it is free
    for run in re.finditer(b"\\x01+", free):
        yield fat.data + run.start() * fat.cluster, fat.data + run.end() * fat.cluster


def _read(stream: BinaryIO, position: int, count: int) -> bytes:
    stream.seek(position)
    data = stream.read(count)
    if len(data) != count:
        raise NotUnderstood("cut short")
    return data


def _complement(spans: Iterable[Span], start: int, end: int) -> Iterator[Span]:
    """What of ``start`` to ``end`` no span covers."""
    for low, high in sorted(spans):
        if low > start:
            yield start, low
        start = max(start, high)
    if start < end:
        yield start, end


def left_out(used: Iterable[Span], spans: Iterable[Span]) -> Iterator[Span]:
    """What of ``used`` none of ``spans`` covers; each in order and not overlapping."""
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
    """The spans in order, widened to whole blocks, joined where they touch, and cut at ``size``."""
    blocks = sorted((low // GRAIN * GRAIN, min(-(-high // GRAIN) * GRAIN, size)) for low, high in spans)
    start = end = 0
    for low, high in blocks:
        if low > end:
            if end > start:
                yield start, end
            start = low
        end = max(end, high)
    if end > start:
        yield start, end
