"""What to write to a card, an image or a prepared node: pieces whose digests are known before the writing."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imagebuilder.errors import PiimgError
from imagebuilder.events import Reporter, Silent
from imagebuilder.image import bmap
from imagebuilder.image.allocation import Span, left_out, used_ranges
from imagebuilder.image.bmap import PIECE, BlockMap, Range
from imagebuilder.image.content import ImageContent, OpenContent
from imagebuilder.image.layout import examine_image_file
from imagebuilder.image.locate import file_at
from imagebuilder.image.partitions import Slice
from imagebuilder.image.prepared import PreparedNode
from imagebuilder.image.recipe import Recipe
from imagebuilder.progress import task
from imagebuilder.system import blockdev

HEAD = PIECE  # bytes; contains the partition table, which is written last

_REBUILD = "build the node again, and let no other program write to its image"


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
    """What is written to a card: the ``content`` of an image, and its bytes in use.

    ``label`` names it in messages: the file that the user named, or a node. ``pieces`` are all bytes in use,
    in order; none reaches across ``HEAD``. ``slices`` are the partitions of the image, if it has an MBR.
    ``document`` describes a node image (NODE.json, image/results.py); it is empty for any other image.
    ``boot_paths`` are the paths on the boot partition of a prepared node, in lower case; ``recipe`` is what
    such a node is made of. ``notes`` are for the user, about an image that is no node image.
    """

    label: str
    content: ImageContent
    map: BlockMap
    pieces: tuple[Piece, ...]
    slices: tuple[Slice, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    boot_paths: frozenset[str] = frozenset()
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The size of the image in bytes: the least size of a card."""
        return self.map.image_size

    @property
    def used(self) -> int:
        """Bytes in use."""
        return sum(piece.size for piece in self.pieces)

    @property
    def body(self) -> int:
        """Bytes in use behind the head."""
        return sum(piece.size for piece in self.pieces if piece.start >= HEAD)

    @property
    def tree_digest(self) -> str:
        """The tree digest of a node image; empty for any other image."""
        return str(self.document.get("tree_digest", ""))

    @property
    def cluster(self) -> str:
        """The cluster of a node image; empty for any other image."""
        return str(self.document.get("cluster", ""))

    @property
    def made(self) -> float:
        """When the file with the node's own content was written, in seconds since 1970. Raises OSError."""
        return (self.content.changes or self.content.base).stat().st_mtime

    def of_node(self, document: Mapping[str, Any], boot_paths: frozenset[str]) -> "ImageSource":
        """This source, known to be the image of a node."""
        return replace(self, document=document, boot_paths=boot_paths)

    @contextlib.contextmanager
    def opened(self) -> Iterator["Reading"]:
        """Open the image for reading. Raises PiimgError."""
        with contextlib.ExitStack() as stack:
            try:
                content = stack.enter_context(self.content.opened())
            except OSError as error:
                raise self._unreadable(error) from error
            yield Reading(self, content)

    def slice_at(self, offset: int) -> Slice | None:
        """The partition that contains byte ``offset``; None when no partition does."""
        return next((part for part in self.slices if part.start <= offset < part.end), None)

    def owner_of(self, offset: int) -> str:
        """The file or metadata that owns byte ``offset``; empty when that is not known."""
        part = self.slice_at(offset)
        owner = file_at(self.content.base, part, offset) if part else ""
        changed = any(start <= offset < end for start, end in self.content.spans)
        return "" if changed and owner.startswith("/") else owner  # the base may have another file there

    def _unreadable(self, error: OSError) -> PiimgError:
        return PiimgError(f"cannot read {self.label}: {error.strerror}", _REBUILD)


@dataclass(frozen=True)
class Reading:
    """An open image."""

    source: ImageSource
    content: OpenContent

    def fill(self, piece: Piece, into: memoryview) -> None:
        """Read ``piece`` into the start of ``into``. Raises PiimgError."""
        try:
            self.content.read(piece.start, into[: piece.size])
        except OSError as error:
            raise self.source._unreadable(error) from error

    def bytes_of(self, piece: Piece) -> bytes:
        """The content of ``piece``. Raises PiimgError when the image no longer matches its block map."""
        data = bytearray(piece.size)
        self.fill_checked(piece, memoryview(data))
        return bytes(data)

    def fill_checked(self, piece: Piece, into: memoryview) -> None:
        """The same as ``fill``; raises PiimgError also when the image no longer matches its block map."""
        self.fill(piece, into)
        if piece.digest and hashlib.sha256(into[: piece.size]).digest() != piece.digest:
            raise _changed(self.source.label, piece.start, piece.end)


def _changed(image: str, start: int, end: int) -> PiimgError:
    return PiimgError(f"{image} does not match its block map (bytes {start} to {end})", _REBUILD)


def prepared_source(node: PreparedNode) -> ImageSource:
    """A prepared node, to be written. Raises PiimgError when it cannot be read."""
    pieces = tuple(Piece(part.start, part.end, bytes.fromhex(part.digest)) for part in node.block_map)
    return ImageSource(
        node.node,
        node.content,
        node.block_map,
        pieces,
        slices=(node.boot, node.root),
        document=node.document,
        boot_paths=node.boot_paths,
        recipe=node.recipe,
    )


def open_source(image: Path, reporter: Reporter | None = None, given: Path | None = None) -> ImageSource:
    """Read an image and the block map beside it (``NAME.bmap`` or ``NAME.img.bmap``).

    ``given`` is the file that ``image`` was unpacked from, if any: the block map is then looked for beside
    that. Without a block map every byte counts as in use, which is always safe. Ranges that the map omits
    although a file system uses them are added: bmaptool makes maps from the holes of a file, and a card that
    contained other data would keep it there. A map made by a build has a digest for each piece. For another
    map the image is read once to compute them, and checked against the map at the same time.
    Raises UsageError when it is no image file or is cut short, PiimgError when the block map is damaged or of
    another image.
    """
    examined = examine_image_file(image, str(given or image))
    map_path = map_beside(given or image)
    size = examined.size
    block_map = bmap.read(map_path) if map_path else BlockMap(size, bmap.BLOCK, "", (Range(0, size, ""),))
    if block_map.image_size != size:
        raise PiimgError(
            f"{map_path} is not the block map of {given or image}: "
            f"it says {block_map.image_size} bytes, not {size}",
            _REBUILD,
        )
    completed = _completed(block_map, used_ranges(image)) if map_path else block_map
    pieces = _pieces(image, completed, reporter or Silent())
    return ImageSource(
        str(given or image),
        ImageContent(image, size),
        completed,
        pieces,
        examined.slices,
        notes=examined.notes,
    )


def map_beside(image: Path) -> Path | None:
    """The block map beside an image, or a compressed image; None if there is none."""
    return next((path for path in _maps_of(image) if path.is_file()), None)


def _maps_of(image: Path) -> list[Path]:
    """Where the block map of an image, or of a compressed image, may be."""
    names = [image.with_suffix(".bmap"), image.with_name(f"{image.name}.bmap")]
    if Path(image.stem).suffix in (".img", ".wic"):  # of os.img.xz also os.bmap
        names.append(image.with_name(f"{Path(image.stem).stem}.bmap"))
    return [path for path in names if path != image]


def _completed(block_map: BlockMap, used: Iterable[Span]) -> BlockMap:
    covered = ((part.start, part.end) for part in block_map)
    missing = [Range(start, end, "") for start, end in left_out(used, covered)]
    ranges = sorted((*block_map.ranges, *missing), key=lambda part: part.start)
    return replace(block_map, ranges=tuple(ranges))


def _pieces(image: Path, block_map: BlockMap, reporter: Reporter) -> tuple[Piece, ...]:
    """All bytes in use, cut into pieces; their digests come from the map or are computed here."""
    unknown = [part for part in block_map if not _is_piece(block_map, part)]
    computed: dict[int, list[Piece]] = {}
    if unknown:
        data = memoryview(bytearray(PIECE))
        with task(reporter, "check", image.name, sum(part.size for part in unknown)) as checking:
            try:
                with image.open("rb", buffering=0) as stream:
                    for part in unknown:
                        computed[part.start] = []
                        for piece in _digested(image, block_map, part, stream.fileno(), data):
                            computed[part.start].append(piece)
                            checking.advance(piece.size)
            except OSError as error:
                raise PiimgError(f"cannot read {image}: {error.strerror}", _REBUILD) from error
    known = (
        computed.get(part.start) or [Piece(part.start, part.end, bytes.fromhex(part.digest))]
        for part in block_map
    )
    return tuple(piece for pieces in known for piece in pieces)


def _is_piece(block_map: BlockMap, part: Range) -> bool:
    return bool(part.digest) and block_map.algorithm == "sha256" and len(list(cut(part.start, part.end))) == 1


def _digested(
    image: Path, block_map: BlockMap, part: Range, handle: int, data: memoryview
) -> Iterator[Piece]:
    """The pieces of a range with computed digests. Raises PiimgError when the map has another digest."""
    whole = hashlib.new(block_map.algorithm) if part.digest else None
    for start, end in cut(part.start, part.end):
        content = data[: end - start]
        blockdev.read_at(handle, content, start)
        if whole is not None:
            whole.update(content)
        yield Piece(start, end, hashlib.sha256(content).digest())
    if whole is not None and whole.hexdigest() != part.digest:
        raise _changed(str(image), part.start, part.end)


def cut(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a range at the multiples of ``PIECE``; the first of them is ``HEAD``."""
    while start < end:
        stop = min(end, (start // PIECE + 1) * PIECE)
        yield start, stop
        start = stop


def first_difference(have: bytes, wanted: bytes | memoryview) -> int | None:
    """The index of the first byte that differs; None when both are the same."""
    if have == wanted:
        return None
    pairs = enumerate(zip(have, wanted, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(have), len(wanted)))
