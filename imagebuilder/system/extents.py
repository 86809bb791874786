"""Which blocks two files share (reflinks): what is the same block has the same bytes, and need not be read.

FIEMAP (Documentation/filesystems/fiemap.rst, linux/fiemap.h) tells where on the disk a file's extents lie.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_FS_IOC_FIEMAP = 0xC020660B
_SYNC = 1  # FIEMAP_FLAG_SYNC: what is still in memory gets its place on the disk first
_HEAD = struct.Struct("=QQLLLL")  # fm_start, fm_length, fm_flags, fm_mapped_extents, fm_extent_count, 0
_EXTENT = struct.Struct("=QQQ16xL12x")  # fe_logical, fe_physical, fe_length, fe_flags
_LAST, _MERGED, _SHARED = 0x1, 0x1000, 0x2000
_AT_ONCE = 512  # extents asked for in one call


@dataclass(frozen=True)
class _Extent:
    """Bytes ``start`` to ``end`` of a file, which lie at ``place`` on the disk."""

    start: int
    end: int
    place: int


def shared_ranges(one: int, other: int) -> list[tuple[int, int]]:
    """The (start, end) byte ranges in which two open files are the same blocks of the same disk, in order.

    Empty where the file system cannot tell, or knows no sharing.
    """
    if os.fstat(one).st_dev != os.fstat(other).st_dev:
        return []
    try:
        return list(_common(list(_shared(one)), list(_shared(other))))
    except OSError:
        return []


def _common(some: list[_Extent], others: list[_Extent]) -> Iterator[tuple[int, int]]:
    first = second = 0
    while first < len(some) and second < len(others):
        a, b = some[first], others[second]
        start, end = max(a.start, b.start), min(a.end, b.end)
        if start < end and a.place - a.start == b.place - b.start:
            yield start, end
        if a.end <= b.end:
            first += 1
        if b.end <= a.end:
            second += 1


def _shared(handle: int) -> Iterator[_Extent]:
    """The extents of an open file that others share and that are plain: not packed, inline or unwritten."""
    start = 0
    while True:
        asked = bytearray(_HEAD.pack(start, (1 << 64) - 1 - start, _SYNC, 0, _AT_ONCE, 0))
        asked += bytes(_AT_ONCE * _EXTENT.size)
        fcntl.ioctl(handle, _FS_IOC_FIEMAP, asked)
        count = _HEAD.unpack_from(asked)[3]
        flags = _LAST
        for number in range(count):
            start, place, length, flags = _EXTENT.unpack_from(asked, _HEAD.size + number * _EXTENT.size)
            if flags & _SHARED and not flags & ~(_LAST | _MERGED | _SHARED):
                yield _Extent(start, start + length, place)
            start += length
        if count == 0 or flags & _LAST:
            return
