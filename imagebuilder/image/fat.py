"""Reader of FAT file systems that are not trusted, without mounting them.

mtools read files; each run is bounded in bytes, memory and seconds (``untrusted``). ``FatFileSystem`` is
piimg's own parser of FAT16 and FAT32, because mtools do not report used clusters that belong to no file. It
follows Microsoft's "FAT: General Overview of On-Disk Format" 1.03 (the boot sector; the FAT; entries of 32
bytes; entries with the attributes 0x0F have 13 letters each of the long name of the next entry).
"""

import re
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from imagebuilder.image.allocation import FatGeometry, NotUnderstood, fat_geometry
from imagebuilder.image.directory import SIZE, DirectoryEntry, chain, raw_entries
from imagebuilder.image.untrusted import (
    MESSAGES,
    Damaged,
    InvalidFormat,
    OutputTooLarge,
    RawReader,
    TooLarge,
    tool_output,
    unreadable,
)
from imagebuilder.model import Partition
from imagebuilder.system.process import ToolError

SECONDS = 10.0
"""For a run of mtools; a failing card can delay a read for minutes."""

_LISTING = 4 << 20  # bytes mtools may print of all paths

_SECTOR = 512  # bytes of the boot sector that are defined
_SIGNATURE = b"\x55\xaa"
_TABLE = 12 << 20  # bytes; the limit for a FAT: 96 GiB in clusters of 32 KiB
_PIECE = 1 << 20  # bytes of a table read at once
_LONG, _LABEL, _FOLDER = 0x0F, 0x08, 0x10  # attributes
_DELETED = 0xE5
_BOOT = 16  # sectors: boot sector, FSInfo, their copies and Windows' loader lie in them


def read_file(image: Path, offset: int, path: str, limit: int) -> bytes | None:
    """The content of ``path`` of the FAT file system at ``offset`` bytes of ``image``; None if missing.

    Raises Damaged when it cannot be read, and TooLarge when it has more than ``limit`` bytes.
    """
    try:
        return mtools(["mtype", "-i", place(offset), pattern(path)], image, limit)
    except ToolError as error:
        if b"not found" in error.stderr:
            return None
        raise unreadable(image, Partition.BOOT, error) from error


def is_folder(image: Path, offset: int, path: str) -> bool:
    """Whether ``path`` is a folder of the FAT file system at ``offset``. Raises Damaged."""
    try:
        said = mtools(["mdir", "-b", "-i", place(offset), pattern(path)], image)
    except ToolError as error:
        if b"not found" in error.stderr:
            return False
        raise unreadable(image, Partition.BOOT, error) from error
    return said.strip().lower() != f"::{path}".encode().lower()  # of a file mdir prints the file's own name


def names(image: Path, offset: int) -> list[str]:
    """The names in the root folder of the FAT file system at ``offset``, also hidden ones. Raises Damaged."""
    try:
        said = mtools(["mdir", "-a", "-b", "-i", place(offset), "::"], image)
    except ToolError as error:
        raise unreadable(image, Partition.BOOT, error) from error
    lines = said.decode("utf-8", "replace").splitlines()
    return [line.removeprefix("::/").removesuffix("/") for line in lines]


def total_size(image: Path, offset: int) -> int:
    """The total size of all files in bytes, by their directory entries. Raises Damaged."""
    try:
        said = mtools(["mdir", "-/", "-a", "-i", place(offset), "::"], image)
    except ToolError as error:
        if b"not found" in error.stderr:
            return 0
        raise unreadable(image, Partition.BOOT, error) from error
    sums = re.findall(
        rb"^ +\d+ files? +(\d[\d ]*) bytes$", said, re.MULTILINE
    )  # a folder each, then all of it
    if not sums:
        raise Damaged(image, Partition.BOOT, "cannot list the files of its boot partition")
    return int(sums[-1].replace(b" ", b""))


def mtools(
    argv: Sequence[str | Path],
    image: Path,
    limit: int = _LISTING,
    *,
    mtime: int | None = None,
    ok: Collection[int] = (0,),
    seconds: float = SECONDS,
    write: bool = False,
    largest: int = MESSAGES,
) -> bytes:
    """The output of a program of mtools; ``place`` names the file system in ``argv``.

    ``mtime`` is the current time, in seconds since 1970, for a program that writes; another one writes files
    of at most ``largest`` bytes. Raises ToolError, and TooLarge when it prints more than ``limit`` bytes.
    """
    env = {"MTOOLSRC": "/dev/null"} | ({} if mtime is None else {"SOURCE_DATE_EPOCH": str(mtime)})
    try:
        return tool_output(argv, image, limit, seconds, env=env, ok=ok, write=write, largest=largest)
    except OutputTooLarge as error:
        raise TooLarge(image, Partition.BOOT) from error


def place(offset: int) -> str:
    """The FAT file system at ``offset`` bytes of the image, for ``mtools``."""
    return f"{{}}@@{offset}"


def pattern(path: str) -> str:
    """A path for mtools, with [ ] escaped, which are patterns; * and ? cannot occur in a FAT name."""
    return "::" + re.sub(r"([\[\]])", r"\\\1", path)


def is_boot(sector: bytes) -> bool:
    """Whether 512 bytes are the boot sector of a FAT file system, by its signature and its type's name."""
    return sector[510:512] == _SIGNATURE and (sector[54:57] == b"FAT" or sector[82:87] == b"FAT32")


def boot_sector(image: Path, offset: int) -> bytes:
    """The 512 bytes at ``offset`` of ``image``, zeros after the end of the image. Raises OSError."""
    with image.open("rb") as stream:
        stream.seek(offset)
        return stream.read(_SECTOR).ljust(_SECTOR, b"\0")


def geometry(image: Path, offset: int, size: int) -> FatGeometry:
    """The geometry of the FAT16 or FAT32 file system in the ``size`` bytes at ``offset`` of ``image``.

    Raises NotUnderstood if there is none, and OSError.
    """
    return fat_geometry(boot_sector(image, offset), size)


def serial(image: Path, offset: int) -> str:
    """The serial number of the FAT32 file system at ``offset`` in blkid(8)'s form: ``abcd-0123``.

    BS_VolID: 4 bytes at 67 of the boot sector. Raises OSError.
    """
    (number,) = struct.unpack_from("<I", boot_sector(image, offset), 67)
    return f"{number >> 16:04x}-{number & 0xFFFF:04x}"


class FatFileSystem:
    """The FAT file system in the ``size`` bytes at ``offset`` of a card, with the boot sector ``boot``.

    Raises InvalidFormat for FAT12, for tables that differ or are too large, and for damage; and ReadError.
    """

    def __init__(self, card: RawReader, offset: int, size: int, boot: bytes) -> None:
        try:
            shape = fat_geometry(boot, size)
        except NotUnderstood as error:
            raise InvalidFormat(card.path, f"its FAT file system is not valid: {error}") from error
        self._card, self._offset, self._shape = card, offset, shape
        self._mask = 0x0FFFFFFF if shape.wide else 0xFFFF
        self._last = self._mask - 7  # this and larger numbers end a chain; the number before means "bad"
        length = (shape.clusters + 2) * shape.entry
        mirrored = not shape.wide or not struct.unpack_from("<H", boot, 40)[0] & 0x80
        if length > _TABLE or len(shape.tables) > 2 or not mirrored:
            raise InvalidFormat(card.path, "its FAT file system is too large or too unusual to be examined")
        self._table = self._read_tables(length)
        if self._entry(0) & 0xFFFFFFF0 & self._mask != self._mask & 0xFFFFFFF0:
            raise InvalidFormat(card.path, "its FAT has no valid first entry")
        (self._root,) = struct.unpack_from("<I", boot, 44) if shape.wide else (0,)
        sector, entries = struct.unpack_from("<H", boot, 11)[0], struct.unpack_from("<H", boot, 17)[0]
        self._root_place = (offset + shape.tables[-1] + shape.table, entries * SIZE)
        end = shape.data + shape.clusters * shape.cluster
        end = size if size - end < shape.cluster else end  # a partial cluster cannot be used
        self.path: Path = card.path
        reserved = min(_BOOT * sector, shape.tables[0])
        self.spans = ((offset, offset + reserved), (offset + shape.tables[0], offset + end))
        self.own = frozenset(self._chain(self._root)) if shape.wide else frozenset[int]()

    def root(self) -> Iterator[DirectoryEntry]:
        """The entries of the root folder."""
        if self._shape.wide:
            return self._entries(self._places(self._root))
        return self._entries(iter([self._root_place]))

    def inside(self, folder: DirectoryEntry) -> Iterator[DirectoryEntry]:
        """The entries of a folder."""
        return self._entries(self._places(folder.first))

    def clusters(self, entry: DirectoryEntry) -> frozenset[int]:
        """The clusters of a file or folder."""
        return frozenset(self._chain(entry.first)) if entry.first else frozenset()

    def uses_more_than(self, clusters: frozenset[int]) -> bool:
        """Whether any other cluster is in use."""
        width, bad, looked = self._shape.entry, self._last - 1, 2
        for run in re.finditer(rb"[^\0]+", self._table):
            for cluster in range(max(looked, run.start() // width), (run.end() - 1) // width + 1):
                if cluster not in clusters and self._entry(cluster) not in (0, bad):
                    return True
            looked = max(looked, (run.end() - 1) // width + 1)
        return False

    def _read_tables(self, length: int) -> bytes:
        """The first FAT. Raises InvalidFormat if a copy differs."""
        first, *copies = (self._offset + at for at in self._shape.tables)
        pieces = []
        for at in range(0, length, _PIECE):
            count = min(_PIECE, length - at)
            pieces.append(self._card.read(first + at, count))
            if any(self._card.read(copy + at, count) != pieces[-1] for copy in copies):
                raise InvalidFormat(self._card.path, "the copies of its FAT differ")
        return b"".join(pieces)

    def _entry(self, cluster: int) -> int:
        width = self._shape.entry
        return int.from_bytes(self._table[cluster * width : (cluster + 1) * width], "little") & self._mask

    def _chain(self, first: int) -> Iterator[int]:
        return chain(self._card, first, self._shape.clusters, self._following)

    def _following(self, cluster: int) -> int | None:
        after = self._entry(cluster)
        return None if after >= self._last else after

    def _places(self, first: int) -> Iterator[tuple[int, int]]:
        size = self._shape.cluster
        for cluster in self._chain(first):
            yield self._offset + self._shape.data + (cluster - 2) * size, size

    def _entries(self, places: Iterator[tuple[int, int]]) -> Iterator[DirectoryEntry]:
        long: list[bytes] = []
        for raw in raw_entries(self._card, places):
            attributes = raw[11]
            if raw[0] == _DELETED:
                long = []
            elif attributes & 0x3F == _LONG:
                long.append(raw)
            else:
                name, long = _long_name(long, raw[:11]) or _short_name(raw), []
                if not attributes & _LABEL and name not in (".", ".."):
                    high, low = struct.unpack_from("<H", raw, 20)[0], struct.unpack_from("<H", raw, 26)[0]
                    first = high << 16 | low if self._shape.wide else low
                    yield DirectoryEntry(name, bool(attributes & _FOLDER), first)


def _long_name(parts: list[bytes], short: bytes) -> str:
    """The long name of an entry by ``parts``; "" if they do not belong to its short name."""
    check = 0
    for letter in short:
        check = ((check & 1) << 7) + (check >> 1) + letter & 0xFF
    numbers = [part[0] & 0x3F for part in parts]
    if numbers != list(range(len(parts), 0, -1)) or any(part[13] != check for part in parts):
        return ""
    name = b"".join(part[1:11] + part[14:26] + part[28:32] for part in reversed(parts))
    return name.decode("utf-16-le", "replace").partition("\0")[0]


def _short_name(raw: bytes) -> str:
    base, extension = raw[:8], raw[8:11]
    base = b"\xe5" + base[1:] if base[0] == 0x05 else base
    stem, more = (part.decode("cp437").rstrip(" ") for part in (base, extension))
    # Bits 3 and 4 of byte 12, by Windows NT and later: the short name is in lower case.
    stem, more = stem.lower() if raw[12] & 8 else stem, more.lower() if raw[12] & 16 else more
    return f"{stem}.{more}" if more else stem
