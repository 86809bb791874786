"""Block maps: the ranges of an image that are in use, each with its digest (bmap 2.0).

The format is that of bmap-tools (BmapCreate.py and BmapCopy.py): an XML file with ImageSize, BlockSize,
BlocksCount (the size in blocks, rounded up), MappedBlocksCount, ChecksumType, BmapFileChecksum, and a
BlockMap of Range elements, each the text ``first-last`` (block numbers, both included) or a single number,
with the digest as an attribute. The last block of an image ends at the end of the image. BmapFileChecksum is
the digest of the file's own bytes with that field filled with ASCII ``0``. Version 1.4 is identical to 2.0;
1.3 has only sha1, in elements of that name; before 1.3 there are no digests.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from imagebuilder.errors import PiimgError
from imagebuilder.reading import read_regular
from imagebuilder.system import files

BLOCK = 4096  # bytes; the block size of the maps piimg writes
PIECE = 1 << 20  # bytes; no range that ``make`` gives is larger or reaches across a multiple of it

_LARGEST = 32 << 20  # bytes; a map of a quarter of a million ranges
_BUFFER = 1 << 20  # bytes
_ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_DAMAGED = "recreate the block map from its image, or fetch both again"


@dataclass(frozen=True)
class Range:
    """Bytes ``start`` to ``end`` (exclusive) of an image; ``digest`` is hex, or empty if there is none."""

    start: int
    end: int
    digest: str

    @property
    def size(self) -> int:
        """Bytes in the range."""
        return self.end - self.start


@dataclass(frozen=True)
class BlockMap:
    """The ranges in use of an image of ``image_size`` bytes, in order, not overlapping.

    ``algorithm`` is the hashlib name of the digest, empty if the map has none (bmap up to 1.2).
    """

    image_size: int
    block_size: int
    algorithm: str
    ranges: tuple[Range, ...]

    @property
    def used(self) -> int:
        """Bytes in use."""
        return sum(r.size for r in self.ranges)

    def __iter__(self) -> Iterator[Range]:
        return iter(self.ranges)


def make(
    image: Path, used: Iterable[tuple[int, int]], advance: Callable[[int], None] | None = None
) -> BlockMap:
    """Hash the ``used`` ranges of an image (bytes, whole blocks, in order) with sha256.

    Long ranges are cut into pieces of at most ``PIECE`` bytes, so that a card can be read back and
    repaired piece by piece. ``advance`` is called after each piece with its size in bytes. Raises PiimgError
    when the file cannot be read.
    """
    ranges: list[Range] = []
    buffer = memoryview(bytearray(_BUFFER))
    try:
        with image.open("rb", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            for start, end in pieces(used):
                ranges.append(Range(start, end, _digest(stream, start, end, buffer)))
                if advance is not None:
                    advance(end - start)
    except OSError as error:
        raise PiimgError(
            f"cannot read {image}: {error.strerror}", "check the path and its permissions"
        ) from error
    return BlockMap(size, BLOCK, "sha256", tuple(ranges))


def pieces(used: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut ranges at the multiples of ``PIECE``."""
    for low, end in used:
        start = low
        while start < end:
            cut = min(end, (start // PIECE + 1) * PIECE)
            yield start, cut
            start = cut


def _digest(stream: io.FileIO, start: int, end: int, buffer: memoryview) -> str:
    digest = hashlib.sha256()
    stream.seek(start)
    while start < end:
        count = stream.readinto(buffer[: min(len(buffer), end - start)])
        if not count:
            raise PiimgError(
                "the image became shorter while it was read", "stop other programs that write to it"
            )
        digest.update(buffer[:count])
        start += count
    return digest.hexdigest()


_TEMPLATE = """\
<?xml version="1.0" ?>
<!-- The blocks of an image that are in use, by its file systems. Written by piimg, for bmaptool too. -->
<bmap version="2.0">
    <ImageSize> {image_size} </ImageSize>
    <BlockSize> {block_size} </BlockSize>
    <BlocksCount> {blocks} </BlocksCount>
    <MappedBlocksCount> {mapped} </MappedBlocksCount>
    <ChecksumType> {algorithm} </ChecksumType>
    <BmapFileChecksum> {checksum} </BmapFileChecksum>
    <BlockMap>
{ranges}    </BlockMap>
</bmap>
"""


def write(path: Path, block_map: BlockMap, mode: int = 0o644) -> None:
    """Write a block map, as ``encoded`` gives it, atomically. Raises PiimgError."""
    try:
        files.write(path, encoded(block_map), mode)
    except OSError as error:
        raise PiimgError(
            f"cannot write {path}: {error.strerror}", "free some space, or choose another folder"
        ) from error


def encoded(block_map: BlockMap) -> bytes:
    """A block map with digests as bmap 2.0. The same map gives the same bytes."""
    blocks = [_blocks(block_map, part) for part in block_map]
    fields = {
        "image_size": block_map.image_size,
        "block_size": block_map.block_size,
        "blocks": _count(block_map.image_size, block_map.block_size),
        "mapped": sum(last - first + 1 for first, last in blocks),
        "algorithm": block_map.algorithm,
        "ranges": "".join(map(_element, blocks, block_map.ranges)),
    }
    empty = hashlib.new(block_map.algorithm)
    unsigned = _TEMPLATE.format(checksum="0" * (2 * empty.digest_size), **fields)
    checksum = hashlib.new(block_map.algorithm, unsigned.encode()).hexdigest()
    return _TEMPLATE.format(checksum=checksum, **fields).encode("ascii")


def _blocks(block_map: BlockMap, part: Range) -> tuple[int, int]:
    """The first and last block of a range. Raises ValueError for a range that is not of whole blocks."""
    size = block_map.block_size
    if part.start % size or (part.end % size and part.end != block_map.image_size) or part.start >= part.end:
        raise ValueError(f"{part} is not of whole blocks")
    return part.start // size, (part.end - 1) // size


def _element(blocks: tuple[int, int], part: Range) -> str:
    first, last = blocks
    digest = f' chksum="{part.digest}"' if part.digest else ""
    return f"        <Range{digest}> {first if first == last else f'{first}-{last}'} </Range>\n"


def read(path: Path) -> BlockMap:
    """Read a block map of version 1.0 to 1.4 or 2.x, and check its consistency.

    Raises PiimgError when it cannot be read, is damaged (checksum, counts, order), or has another version.
    """
    try:
        data = read_regular(path, _LARGEST)
    except OSError as error:
        raise PiimgError(
            f"cannot read {path}: {error.strerror}", "check the path and its permissions"
        ) from error
    try:
        return _parse(data)
    except _Damaged as error:
        raise PiimgError(f"{path} is not a usable block map: {error}", _DAMAGED) from None


class _Damaged(Exception):
    """A block map is damaged; the message says how, in a few words."""


def _parse(data: bytes) -> BlockMap:
    root = _xml(data)
    algorithm, checksum, attribute = _checksum_names(root)
    if algorithm:
        _check_own(data, algorithm, _text(root, checksum))
    size, block = _number(_text(root, "ImageSize")), _number(_text(root, "BlockSize"))
    if size == 0 or block < 512 or block & (block - 1):
        raise _Damaged(f"an image of {size} bytes in blocks of {block}")
    if _number(_text(root, "BlocksCount")) != _count(size, block):
        raise _Damaged("BlocksCount does not fit ImageSize")
    ranges = tuple(_ranges(root, size, block, algorithm, attribute))
    if _number(_text(root, "MappedBlocksCount")) != sum(_count(part.size, block) for part in ranges):
        raise _Damaged("MappedBlocksCount does not fit the ranges")
    return BlockMap(size, block, algorithm, ranges)


def _xml(data: bytes) -> ElementTree.Element:
    """The root element. A document type is refused, so that no entity can expand."""
    try:
        text = data.decode("utf-8")
        if "<!DOCTYPE" in text:
            raise _Damaged("it declares a document type")
        root = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise _Damaged(str(error)) from None
    if root.tag != "bmap":
        raise _Damaged("no bmap element")
    return root


def _checksum_names(root: ElementTree.Element) -> tuple[str, str, str]:
    """The digest algorithm, the element of the file's checksum, the attribute of a range; empty up to 1.2."""
    version = root.get("version", "")
    match = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", version)
    major, minor = (int(match[1]), int(match[2])) if match else (0, 0)
    if major == 2 or (major, minor) == (1, 4):
        algorithm = _text(root, "ChecksumType")
        if algorithm not in _ALGORITHMS:
            raise _Damaged(f"its checksums are of an unknown type {algorithm[:20]!r}")
        return algorithm, "BmapFileChecksum", "chksum"
    if (major, minor) == (1, 3):
        return "sha1", "BmapFileSHA1", "sha1"
    if major == 1 and minor < 3:
        return "", "", ""
    raise _Damaged(f"it is of version {version[:20]!r}, and piimg reads up to 2")


def _check_own(data: bytes, algorithm: str, stated: str) -> None:
    """Check the file's own digest. It is blanked at its first occurrence, as bmaptool does."""
    length = 2 * hashlib.new(algorithm).digest_size
    if not re.fullmatch(f"[0-9a-f]{{{length}}}", stated):
        raise _Damaged("its own checksum is missing or not hexadecimal")
    blank = data.replace(stated.encode(), b"0" * length, 1)
    if hashlib.new(algorithm, blank).hexdigest() != stated:
        raise _Damaged("its own checksum does not match: it was changed or truncated")


def _ranges(
    root: ElementTree.Element, size: int, block: int, algorithm: str, attribute: str
) -> Iterator[Range]:
    count, free = _count(size, block), 0  # free: the first block that the next range may have
    length = 2 * hashlib.new(algorithm).digest_size if algorithm else 0
    for element in root.iterfind("BlockMap/Range"):
        first, _, last = (element.text or "").strip().partition("-")
        low, high = _number(first), _number(last or first)
        if not free <= low <= high < count:
            raise _Damaged(f"range {low}-{high} is out of order or outside the image")
        digest = element.get(attribute, "") if attribute else ""
        if digest and not re.fullmatch(f"[0-9a-f]{{{length}}}", digest):
            raise _Damaged(f"range {low}-{high} has no proper checksum")
        yield Range(low * block, min((high + 1) * block, size), digest)
        free = high + 1


def _text(root: ElementTree.Element, name: str) -> str:
    text = root.findtext(name)
    if text is None:
        raise _Damaged(f"no {name}")
    return text.strip()


def _number(text: str) -> int:
    text = text.strip()
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise _Damaged(f"{text[:20]!r} is not a number")
    return int(text)


def _count(size: int, block: int) -> int:
    return -(-size // block)
