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
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4
from imagebuilder.image.partitions import FAT_TYPES, LINUX_TYPE, Slice, read_table
from imagebuilder.image.untrusted import Damaged
from imagebuilder.system.blockdev import rights_hint

GRAIN = 4096  # bytes; ranges in use are widened to whole blocks of this size

Span = tuple[int, int]
"""Bytes from start to end (exclusive), counted from the start of the image."""

_EXT_MAGIC_AT = 1024 + 56
_LOW_HALF = bytes(byte & 0x0F for byte in range(256))
_EXT_NUMBERS = (
    *("Block size", "Block count", "Free blocks", "First block"),
    *("Blocks per group", "Inode blocks per group"),
)
_EXT_OPTIONAL = (("Group descriptor size", "32"), ("Reserved GDT blocks", "0"))
_TABLE_LIMIT = 64 << 20  # bytes of a FAT; enough for 500 GB in clusters of 32 KiB


class NotUnderstood(Exception):
    """The data is not a clean file system of the expected kind. Never leaves this package."""


@dataclass(frozen=True)
class CardUsage:
    """What a backup of a card takes: ``spans``, as ``used_ranges`` gives them, of the first ``size`` bytes.

    ``slices`` are the partitions, if the card has an MBR with primary partitions only. ``whole`` has the
    numbers of those that are taken as a whole, each with the reason.
    """

    size: int
    spans: tuple[Span, ...]
    slices: tuple[Slice, ...]
    whole: Mapping[int, str]


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
            slices = [part for part in _slices(image) if part.end <= size]
            return list(_widened(_spans(image, stream, size, slices, {}), size))
    except OSError as error:
        raise PiimgError(
            f"cannot read {image}: {error.strerror}", "check the path and its permissions"
        ) from error


def card_usage(card: Path, size: int) -> CardUsage:
    """What is in use on a card of ``size`` bytes, which must not change meanwhile.

    With an MBR that has primary partitions only, what lies behind the last of them is not in use. Raises
    PiimgError when the card cannot be read, or a partition ends behind its end.
    """
    slices = _slices(card)
    end = max((part.end for part in slices), default=size)
    if end > size:
        raise PiimgError(
            f"{card} is cut short: a partition ends {end - size} bytes behind its end",
            "it was written from an image that is larger than the card, or the card reports a wrong size",
        )
    whole: dict[int, str] = {}
    try:
        with card.open("rb") as stream:
            spans = tuple(_widened(_spans(card, stream, end, slices, whole), end))
    except OSError as error:
        hint = rights_hint(card, error, "try another card or reader")
        raise PiimgError(f"cannot read {card}: {error.strerror}", hint) from error
    return CardUsage(end, spans, tuple(slices), whole)


def _spans(
    image: Path, stream: BinaryIO, size: int, slices: Sequence[Slice], whole: dict[int, str]
) -> Iterator[Span]:
    """The ranges in use, unordered, from the file systems in ``slices``; adds to ``whole``."""
    yield from _complement(((part.start, part.end) for part in slices), 0, size)
    for part in slices:
        try:
            free = _free(image, stream, part)
        except (NotUnderstood, Damaged) as error:
            whole[part.number] = str(error)
            free = []
        yield from _in_use(free, part.start, part.size)


def _free(image: Path, stream: BinaryIO, part: Slice) -> list[Span]:
    """The free ranges of a partition, in bytes from its start. Raises NotUnderstood, or Damaged."""
    if part.type in FAT_TYPES:
        return _fat_free(stream, part.start, part.size)
    if part.type == LINUX_TYPE:
        return _ext4_free(image, part.start, part.size)
    raise NotUnderstood(f"a partition of type {part.type:02x}")


def _slices(image: Path) -> Sequence[Slice]:
    """The partitions of an image or a card; none if it has no valid table."""
    try:
        return read_table(image).slices
    except PiimgError:
        return ()


def _in_use(free: Iterable[Span], offset: int, size: int) -> list[Span]:
    """What is not ``free`` of the ``size`` bytes at ``offset``."""
    return list(_complement(((offset + start, offset + end) for start, end in free), offset, offset + size))


def ext4_used(path: Path, offset: int, size: int) -> list[Span]:
    """The ranges in use of the ext2, 3 or 4 file system in the ``size`` bytes at ``offset`` of an image.

    The whole partition if there is no file system, or if its bitmaps cannot be trusted: not cleanly
    unmounted, a journal to replay, inconsistent counts. Bytes outside the file system are in use.
    """
    try:
        return _in_use(_ext4_free(path, offset, size), offset, size)
    except (NotUnderstood, Damaged):
        return [(offset, offset + size)]


def _ext4_free(path: Path, offset: int, size: int) -> list[Span]:
    """The free ranges by the block bitmaps, in bytes from the start of the file system.

    Raises NotUnderstood, or Damaged.
    """
    with path.open("rb") as stream:
        stream.seek(offset + _EXT_MAGIC_AT)
        if stream.read(2) != b"\x53\xef":
            raise NotUnderstood("no ext4 file system")
    fields = ext4.superblock(path, offset)
    try:
        block, total, count, first, each, table = (int(fields[name]) for name in _EXT_NUMBERS)
        features, state = fields["Filesystem features"].split(), fields["Filesystem state"]
        descriptor, reserved = (int(fields.get(name, otherwise)) for name, otherwise in _EXT_OPTIONAL)
    except (KeyError, ValueError):
        raise NotUnderstood("no superblock") from None
    if state != "clean" or "needs_recovery" in features:
        raise NotUnderstood("not cleanly unmounted")
    # Unknown features have no name. A read-only one (R) may change how blocks are counted, as bigalloc does.
    if "bigalloc" in features or any(re.fullmatch(r"FEATURE_[IR]\d+", name) for name in features):
        raise NotUnderstood("features that change how blocks are counted")
    if not 0 <= count <= total or total * block > size:
        raise NotUnderstood("the free blocks do not add up")
    groups = ext4.block_groups(path, offset)
    fits = 1 <= each <= 8 * block and table <= each and first <= 1  # a bitmap has one block
    if not fits or len(groups) != -(-(total - first) // each):
        raise NotUnderstood("the block groups do not add up")
    # Copies of the superblock and of the descriptors, and room for more of these, are at the start of some
    # groups (libext2fs, ext2fs_super_and_bgd_loc2).
    heads = {0, 1 - (-len(groups) * descriptor // block) + reserved}
    heads |= {1, 2} if "meta_bg" in features else set()
    metadata = _by_group(ext4.metadata_of(groups, table), first, each)
    free: list[Span] = []
    with path.open("rb") as stream:
        for number, group in enumerate(groups):
            start, end = first + number * each, min(first + (number + 1) * each, total)
            if group.block_bitmap >= total:
                raise NotUnderstood("a bitmap is outside the file system")
            if group.has_bitmap:
                bitmap = _read(stream, offset + group.block_bitmap * block, -(-(end - start) // 8))
                runs = list(_zeros(bitmap, start, end))
            else:
                runs = list(_but_metadata(group, heads, metadata.get(number, ()), start, end))
            if sum(high - low for low, high in runs) != group.free:
                raise NotUnderstood("the free blocks do not add up")
            free += runs
    if sum(high - low for low, high in free) != count:
        raise NotUnderstood("the free blocks do not add up")
    return [(low * block, high * block) for low, high in free]


def _by_group(spans: Iterable[Span], first: int, each: int) -> Mapping[int, Sequence[Span]]:
    """``spans`` of blocks by the number of their group; one that reaches into the next group is cut."""
    found: dict[int, list[Span]] = defaultdict(list)
    for low, high in spans:
        start = low
        while start < high:
            number = (start - first) // each
            stop = min(high, first + (number + 1) * each)
            found[number].append((start, stop))
            start = stop
    return found


def _zeros(bitmap: bytes, start: int, end: int) -> Iterator[Span]:
    """The runs of free blocks from ``start`` to ``end`` by their bitmap: a bit each, the lowest one first."""
    count = end - start
    bits = int.from_bytes(bitmap, "little") & ((1 << count) - 1)
    for run in re.finditer("0+", f"{bits:0{count}b}"[::-1]):
        yield start + run.start(), start + run.end()


def _but_metadata(
    group: ext4.BlockGroup, heads: Collection[int], metadata: Iterable[Span], start: int, end: int
) -> Iterator[Span]:
    """The free blocks of a group without a bitmap: all but its bitmaps and tables, and those at its start.

    These are as many as are not free and are no other metadata: one of ``heads``.
    """
    own = list(joined(metadata))
    head = end - start - group.free - sum(high - low for low, high in own)
    if head not in heads:
        raise NotUnderstood("the free blocks do not add up")
    yield from _complement([(start, start + head), *own], start, end)


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
        return _in_use(_fat_free(stream, offset, size), offset, size)
    except NotUnderstood:
        return [(offset, offset + size)]


def _fat_free(stream: BinaryIO, offset: int, size: int) -> list[Span]:
    """The free ranges by the FAT, in bytes from the start of the file system. Raises NotUnderstood."""
    fat = fat_geometry(_read(stream, offset, 512), size)
    length = (fat.clusters + 2) * fat.entry
    if length > _TABLE_LIMIT:
        raise NotUnderstood("too many clusters to list")
    table = _read(stream, offset + fat.tables[0], length)
    if any(_read(stream, offset + at, length) != table for at in fat.tables[1:]):
        raise NotUnderstood("the FATs differ")
    return list(_free_clusters(fat, table))


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
