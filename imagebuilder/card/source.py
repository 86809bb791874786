"""What a card is to hold: a node image and its block map, read piece by piece and checked on the way."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image import bmap, partitions
from imagebuilder.image.bmap import PIECE, BlockMap, Range
from imagebuilder.image.partitions import Slice
from imagebuilder.image.usage import Span, left_out, used_ranges
from imagebuilder.system import blockdev

HEAD = 1 << 20  # bytes; holds the partition table, written last

_PACKED = {b"\xfd7zXZ\0": "xz", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_AGAIN = "build the node again, and let nothing write to its image meanwhile"


@dataclass(frozen=True)
class Piece:
    """Bytes ``start`` to ``end`` (exclusive), at most ``PIECE`` of them; ``digest`` is their sha256."""

    start: int
    end: int
    digest: bytes

    @property
    def size(self) -> int:
        """Bytes in the piece."""
        return self.end - self.start


@dataclass(frozen=True)
class Source:
    """An image file and the ranges of it that are in use; ``slices`` are its partitions, if it has any."""

    path: Path
    map: BlockMap
    slices: tuple[Slice, ...] = ()

    @property
    def size(self) -> int:
        """The size of the image in bytes: what a card must have at least."""
        return self.map.image_size

    @property
    def body(self) -> int:
        """Bytes in use behind the head."""
        return sum(one.end - max(one.start, HEAD) for one in self.map if one.end > HEAD)

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of the image. Raises OSError."""
        with self.path.open("rb", buffering=0) as stream:
            return os.pread(stream.fileno(), end - start, start)

    def partition_at(self, offset: int) -> int | None:
        """The number of the partition that byte ``offset`` lies in, or None outside of all."""
        return next((one.number for one in self.slices if one.start <= offset < one.end), None)


def open_source(image: Path) -> Source:
    """Take an image with the block map that lies beside it (``NAME.bmap`` or ``NAME.img.bmap``).

    Without a block map every byte counts as in use: nothing is known of the image, and all of it is safe.
    What a map leaves out though a file system uses it is added: bmaptool makes maps of a file's holes, and a
    card that held other data would keep it there.
    Raises UsageError when it is no image file, PiimgError when the block map is damaged or of another image.
    """
    size = _checked_size(image)
    beside = (image.with_suffix(".bmap"), image.with_name(f"{image.name}.bmap"))
    found = next((path for path in beside if path != image and path.is_file()), None)
    block_map = bmap.read(found) if found else BlockMap(size, bmap.BLOCK, "", (Range(0, size, ""),))
    if block_map.image_size != size:
        raise PiimgError(
            f"{found} is not the block map of {image}: it says {block_map.image_size} bytes, not {size}",
            _AGAIN,
        )
    slices: tuple[Slice, ...] = ()
    with contextlib.suppress(PiimgError):  # an image of any other kind: nothing to name an offset by
        slices = partitions.read_table(image).slices
    return Source(image, _completed(block_map, used_ranges(image)) if found else block_map, slices)


def _completed(block_map: BlockMap, used: Iterable[Span]) -> BlockMap:
    covered = ((one.start, one.end) for one in block_map)
    missing = [Range(start, end, "") for start, end in left_out(used, covered)]
    ranges = sorted((*block_map.ranges, *missing), key=lambda one: one.start)
    return replace(block_map, ranges=tuple(ranges))


def _checked_size(image: Path) -> int:
    try:
        with image.open("rb") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise UsageError(f"{image} is not a file", "name an image file")
            start = stream.read(6)
    except OSError as error:
        raise UsageError(f"{image}: {error.strerror}", "name an image file") from error
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
    if packed:
        raise UsageError(f"{image} is packed ({packed})", "unpack it first; piimg fetch does it by itself")
    if info.st_size == 0:
        raise UsageError(f"{image} is empty", "build or fetch it again")
    return info.st_size


def pieces(source: Source, into: memoryview) -> Iterator[Piece]:
    """Read what is in use into ``into``, piece by piece, in order; no piece reaches across ``HEAD``.

    Each piece is in ``into`` until the next is asked for. A range that does not have the digest of the block
    map is noticed before its last piece is given. Raises PiimgError for that, and when the image cannot be
    read.
    """
    try:
        with source.path.open("rb", buffering=0) as stream:
            for one in source.map:
                yield from _range_pieces(source, one, stream.fileno(), into)
    except OSError as error:
        raise PiimgError(f"cannot read {source.path}: {error.strerror}", _AGAIN) from error


def _range_pieces(source: Source, one: Range, handle: int, into: memoryview) -> Iterator[Piece]:
    whole = hashlib.new(source.map.algorithm) if one.digest else None
    for start, end in cut(one.start, one.end):
        data = into[: end - start]
        blockdev.read_at(handle, data, start)
        if whole is not None:
            whole.update(data)
            if end == one.end and whole.hexdigest() != one.digest:
                raise PiimgError(
                    f"{source.path} is not what its block map says (bytes {one.start} to {one.end})", _AGAIN
                )
        if whole is not None and whole.name == "sha256" and (start, end) == (one.start, one.end):
            yield Piece(start, end, whole.digest())  # most ranges are one piece: hashed once
        else:
            yield Piece(start, end, hashlib.sha256(data).digest())


def cut(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a range at ``HEAD`` and at the multiples of ``PIECE``."""
    while start < end:
        stop = min(end, HEAD) if start < HEAD else min(end, (start // PIECE + 1) * PIECE)
        yield start, stop
        start = stop


def first_difference(have: bytes, wanted: bytes) -> int | None:
    """The index of the first byte in which the two differ; None when they are the same."""
    if have == wanted:
        return None
    pairs = enumerate(zip(have, wanted, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(have), len(wanted)))
