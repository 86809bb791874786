"""What a card is to hold: a node image, cut into pieces whose digests are known before it is written."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Reporter, Silent
from imagebuilder.image import bmap, partitions
from imagebuilder.image.allocation import Span, left_out, used_ranges
from imagebuilder.image.bmap import PIECE, BlockMap, Range
from imagebuilder.image.partitions import Slice
from imagebuilder.progress import task
from imagebuilder.reading import open_regular
from imagebuilder.system import blockdev

HEAD = PIECE  # bytes; holds the partition table, written last

_PACKED = {b"\xfd7zXZ\0": "xz", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_AGAIN = "build the node again, and let nothing write to its image meanwhile"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start`` to ``end`` (exclusive), at most ``PIECE`` of them; ``digest`` is their sha256."""

    start: int
    end: int
    digest: bytes = b""

    @property
    def size(self) -> int:
        """Bytes in the piece."""
        return self.end - self.start


@dataclass(frozen=True)
class ImageSource:
    """An image file and what of it is in use.

    ``pieces`` are all bytes in use, in order; none reaches across ``HEAD``. ``slices`` are the partitions of
    the image, if it has any.
    """

    path: Path
    map: BlockMap
    pieces: tuple[Piece, ...]
    slices: tuple[Slice, ...] = ()

    @property
    def size(self) -> int:
        """The size of the image in bytes: what a card must have at least."""
        return self.map.image_size

    @property
    def used(self) -> int:
        """Bytes in use."""
        return sum(piece.size for piece in self.pieces)

    @property
    def body(self) -> int:
        """Bytes in use behind the head."""
        return sum(piece.size for piece in self.pieces if piece.start >= HEAD)

    @contextlib.contextmanager
    def opened(self) -> Iterator["Reading"]:
        """Open the image for reading. Raises PiimgError."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            yield Reading(self, handle)
        finally:
            os.close(handle)

    def slice_at(self, offset: int) -> Slice | None:
        """The partition that byte ``offset`` lies in, or None outside of all."""
        return next((one for one in self.slices if one.start <= offset < one.end), None)

    def _unreadable(self, error: OSError) -> PiimgError:
        return PiimgError(f"cannot read {self.path}: {error.strerror}", _AGAIN)


@dataclass(frozen=True)
class Reading:
    """An image that is open."""

    source: ImageSource
    handle: int

    def fill(self, piece: Piece, into: memoryview) -> None:
        """Read ``piece`` into the start of ``into``. Raises PiimgError."""
        try:
            blockdev.read_at(self.handle, into[: piece.size], piece.start)
        except OSError as error:
            raise self.source._unreadable(error) from error

    def bytes_of(self, piece: Piece) -> bytes:
        """The content of ``piece``. Raises PiimgError when the image is not any more what its map says."""
        data = bytearray(piece.size)
        self.fill(piece, memoryview(data))
        if piece.digest and hashlib.sha256(data).digest() != piece.digest:
            raise _changed(self.source.path, piece.start, piece.end)
        return bytes(data)


def _changed(image: Path, start: int, end: int) -> PiimgError:
    return PiimgError(f"{image} is not what its block map says (bytes {start} to {end})", _AGAIN)


def open_source(image: Path, reporter: Reporter | None = None) -> ImageSource:
    """Take an image with the block map that lies beside it (``NAME.bmap`` or ``NAME.img.bmap``).

    Without a block map every byte counts as in use: nothing is known of the image, and all of it is safe.
    What a map leaves out though a file system uses it is added: bmaptool makes maps of a file's holes, and a
    card that held other data would keep it there. Where the map gives no digest piece by piece, as it does
    when a build made it, the image is read once, and checked against the map on the way.
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
    completed = _completed(block_map, used_ranges(image)) if found else block_map
    return ImageSource(image, completed, _pieces(image, completed, reporter or Silent()), slices)


def _completed(block_map: BlockMap, used: Iterable[Span]) -> BlockMap:
    covered = ((one.start, one.end) for one in block_map)
    missing = [Range(start, end, "") for start, end in left_out(used, covered)]
    ranges = sorted((*block_map.ranges, *missing), key=lambda one: one.start)
    return replace(block_map, ranges=tuple(ranges))


def _checked_size(image: Path) -> int:
    try:
        with open_regular(image) as stream:  # a pipe would be waited for
            info = os.fstat(stream.fileno())
            start = stream.read(6)
    except OSError as error:
        raise UsageError(f"{image}: {error.strerror}", "name an image file") from error
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
    if packed:
        raise UsageError(f"{image} is packed ({packed})", "unpack it first; piimg fetch does it by itself")
    if info.st_size == 0:
        raise UsageError(f"{image} is empty", "build or fetch it again")
    return info.st_size


def _pieces(image: Path, block_map: BlockMap, reporter: Reporter) -> tuple[Piece, ...]:
    """All that is in use, cut into pieces with digests: those of the map, else computed here."""
    unknown = [one for one in block_map if not _is_piece(block_map, one)]
    computed: dict[int, list[Piece]] = {}
    if unknown:
        data = memoryview(bytearray(PIECE))
        with task(reporter, "check", image.name, sum(one.size for one in unknown)) as checking:
            try:
                with image.open("rb", buffering=0) as stream:
                    for one in unknown:
                        computed[one.start] = []
                        for piece in _digested(image, block_map, one, stream.fileno(), data):
                            computed[one.start].append(piece)
                            checking.advance(piece.size)
            except OSError as error:
                raise PiimgError(f"cannot read {image}: {error.strerror}", _AGAIN) from error
    known = (
        computed.get(one.start) or [Piece(one.start, one.end, bytes.fromhex(one.digest))] for one in block_map
    )
    return tuple(piece for pieces in known for piece in pieces)


def _is_piece(block_map: BlockMap, one: Range) -> bool:
    return bool(one.digest) and block_map.algorithm == "sha256" and len(list(cut(one.start, one.end))) == 1


def _digested(image: Path, block_map: BlockMap, one: Range, handle: int, data: memoryview) -> Iterator[Piece]:
    """The pieces of a range, read for their digests; the range must have its own, if it has one."""
    whole = hashlib.new(block_map.algorithm) if one.digest else None
    for start, end in cut(one.start, one.end):
        part = data[: end - start]
        blockdev.read_at(handle, part, start)
        if whole is not None:
            whole.update(part)
        yield Piece(start, end, hashlib.sha256(part).digest())
    if whole is not None and whole.hexdigest() != one.digest:
        raise _changed(image, one.start, one.end)


def cut(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a range at the multiples of ``PIECE``, ``HEAD`` being the first."""
    while start < end:
        stop = min(end, (start // PIECE + 1) * PIECE)
        yield start, stop
        start = stop


def first_difference(have: bytes, wanted: bytes) -> int | None:
    """The index of the first byte in which the two differ; None when they are the same."""
    if have == wanted:
        return None
    pairs = enumerate(zip(have, wanted, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(have), len(wanted)))
