"""Find blocks that two files share (reflinks): their bytes are the same, so they need not be compared.

FIEMAP (Documentation/filesystems/fiemap.rst, linux/fiemap.h) lists the extents of a file on the disk.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_FS_IOC_FIEMAP = 0xC020660B
_SYNC = 1  # FIEMAP_FLAG_SYNC: write data in memory to the disk first
_HEAD = struct.Struct("=QQLLLL")  # fm_start, fm_length, fm_flags, fm_mapped_extents, fm_extent_count, 0
_EXTENT = struct.Struct("=QQQ16xL12x")  # fe_logical, fe_physical, fe_length, fe_flags
_LAST, _MERGED, _SHARED = 0x1, 0x1000, 0x2000
_AT_ONCE = 512  # extents per call


@dataclass(frozen=True)
class _Extent:
    """Bytes ``start`` to ``end`` of a file, at byte ``place`` of the disk."""

    start: int
    end: int
    place: int


def shared_ranges(first: int, second: int) -> list[tuple[int, int]]:
    """The (start, end) byte ranges in which two open files share blocks of the same disk, in order.

    Empty where the file system has no FIEMAP or no shared blocks.
    """
    if os.fstat(first).st_dev != os.fstat(second).st_dev:
        return []
    try:
        return list(_common(list(_shared(first)), list(_shared(second))))
    except OSError:
        return []


def _common(first: list[_Extent], second: list[_Extent]) -> Iterator[tuple[int, int]]:
    i = j = 0
    while i < len(first) and j < len(second):
        a, b = first[i], second[j]
        start, end = max(a.start, b.start), min(a.end, b.end)
        if start < end and a.place - a.start == b.place - b.start:
            yield start, end
        if a.end <= b.end:
            i += 1
        if b.end <= a.end:
            j += 1


def _shared(handle: int) -> Iterator[_Extent]:
    """The shared extents of an open file, without compressed, inline and unwritten ones."""
    start = 0
    while True:
        request = bytearray(_HEAD.pack(start, (1 << 64) - 1 - start, _SYNC, 0, _AT_ONCE, 0))
        request += bytes(_AT_ONCE * _EXTENT.size)
        fcntl.ioctl(handle, _FS_IOC_FIEMAP, request)
        count = _HEAD.unpack_from(request)[3]
        flags = _LAST
        for number in range(count):
            start, place, length, flags = _EXTENT.unpack_from(request, _HEAD.size + number * _EXTENT.size)
            if flags & _SHARED and not flags & ~(_LAST | _MERGED | _SHARED):
                yield _Extent(start, start + length, place)
            start += length
        if count == 0 or flags & _LAST:
            return
