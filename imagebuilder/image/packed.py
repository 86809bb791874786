"""Packed images: an image as zstd frames of 4 MiB of it each, so that all processors pack and check them.

A frame has the size of its content and a checksum (RFC 8878, 3.1.1). The frames one after the other are a
file that zstd unpacks to the whole image. Regions that are not in use are zeros, of some hundred bytes each.
"""

import contextlib
import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from imagebuilder.errors import PiimgError
from imagebuilder.image.allocation import Span
from imagebuilder.image.bmap import PIECE, Range, pieces

REGION = 4 * PIECE  # bytes; the content of a frame

_LEVEL = 3  # the default of zstd
_STEP = 32 << 20  # bytes of the file that are read back together, while the next ones are written
_BEHIND = 2  # steps that the check may be behind
_PAGE = 4096  # bytes; posix_fadvise(2) drops whole pages only


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes ``start`` to ``end`` (exclusive) of an image; ``pieces`` are those in use, at most a MiB each."""

    start: int
    end: int
    pieces: tuple[Span, ...]

    @property
    def size(self) -> int:
        """Bytes in the region."""
        return self.end - self.start

    @property
    def used(self) -> int:
        """Bytes in use."""
        return sum(end - start for start, end in self.pieces)


@dataclass(frozen=True, slots=True)
class Packed:
    """A region as a zstd ``frame``; ``digests`` are the sha256 (hex) of its pieces."""

    region: Region
    frame: bytes
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Written:
    """A region whose frame is in the file, from byte ``start`` to ``end``."""

    start: int
    end: int
    region: Region
    digests: tuple[str, ...]


def regions(size: int, used: Iterable[Span]) -> Iterator[Region]:
    """All regions of an image of ``size`` bytes, in order; ``used`` are its ranges in use."""
    by_region: dict[int, list[Span]] = defaultdict(list)
    for start, end in pieces(used):
        by_region[start // REGION].append((start, end))
    for number in range(-(-size // REGION)):
        start = number * REGION
        yield Region(start, min(start + REGION, size), tuple(by_region.get(number, ())))


def pack(region: Region, content: bytes) -> Packed:
    """Pack a region; ``content`` are its bytes, zeros where it is not in use."""
    return Packed(region, _frame(content), tuple(_digests(region, content)))


def pack_unused(region: Region) -> Packed:
    """Pack a region of which nothing is in use."""
    return Packed(region, _unused(region.size))


@functools.cache
def _unused(size: int) -> bytes:
    return _frame(bytes(size))


def _frame(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(_LEVEL, write_checksum=True, write_content_size=True).compress(content)


def _digests(region: Region, content: bytes) -> Iterator[str]:
    view = memoryview(content)
    for start, end in region.pieces:
        yield hashlib.sha256(view[start - region.start : end - region.start]).hexdigest()


@dataclass
class PackedFile:
    """A packed image that is being written. ``ranges`` are those of its block map, ``size`` its bytes so far.

    What was written is read back from the disk, not from the page cache, and unpacked and compared, while the
    next regions are written. For use by one thread.
    """

    path: Path
    handle: int
    checker: ThreadPoolExecutor
    ranges: list[Range] = field(default_factory=list)
    size: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)  # of what was read back
    _unchecked: list[_Written] = field(default_factory=list)
    _checked_to: int = 0
    _checks: list["Future[None]"] = field(default_factory=list)

    def add(self, packed: Packed) -> None:
        """Write the next region. Raises OSError, and PiimgError when an earlier one is read back wrong."""
        region, rest = packed.region, memoryview(packed.frame)
        while rest:
            rest = rest[os.write(self.handle, rest) :]
        end = self.size + len(packed.frame)
        self._unchecked.append(_Written(self.size, end, region, packed.digests))
        self.size = end
        for (start, stop), digest in zip(region.pieces, packed.digests, strict=True):
            self.ranges.append(Range(start, stop, digest))
        if self.size - self._checked_to >= _STEP:
            self._check(self.size // _PAGE * _PAGE)

    def finish(self) -> str:
        """Wait until everything was read back; the sha256 (hex) of the file. Raises as ``add`` does."""
        self._check(self.size)
        for check in self._checks:
            check.result()
        return str(self._digest.hexdigest())

    def _check(self, end: int) -> None:
        """Begin to check the regions that are complete before byte ``end`` of the file."""
        ready = [one for one in self._unchecked if one.end <= end]
        self._unchecked = self._unchecked[len(ready) :]
        self._checked_to = end
        self._checks.append(self.checker.submit(self._read_back, ready, end))
        while len(self._checks) > _BEHIND or (self._checks and self._checks[0].done()):
            self._checks.pop(0).result()

    def _read_back(self, written: Sequence[_Written], end: int) -> None:
        os.fdatasync(self.handle)
        if written:
            start = written[0].start // _PAGE * _PAGE
            os.posix_fadvise(self.handle, start, end - start, os.POSIX_FADV_DONTNEED)
        for one in written:
            frame = os.pread(self.handle, one.end - one.start, one.start)
            self._digest.update(frame)
            if not _is_right(one, frame):
                raise PiimgError(
                    f"{self.path}: what was written to bytes {one.start} to {one.end} is read back wrong",
                    "the disk may be failing: choose a folder on another one",
                )


def _is_right(written: _Written, frame: bytes) -> bool:
    """Whether ``frame`` unpacks to the pieces that were packed."""
    region = written.region
    if not region.pieces:
        return frame == _unused(region.size)
    try:
        if zstandard.frame_content_size(frame) != region.size:
            return False
        content = zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError:
        return False
    return tuple(_digests(region, content)) == written.digests


@contextlib.contextmanager
def writing(file: Path) -> Iterator[PackedFile]:
    """Open the existing empty ``file``, to write a packed image to it. Raises OSError."""
    with file.open("r+b", buffering=0) as stream, ThreadPoolExecutor(1, "read-back") as checker:
        try:
            yield PackedFile(file, stream.fileno(), checker)
        except BaseException:
            checker.shutdown(cancel_futures=True)
            raise
