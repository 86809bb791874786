"""The layout of an image file that is written as it is: its partition table, and whether it is whole.

Formats: MBR and extended partitions by UEFI specification 2.10, 5.2.1, and util-linux (libblkid, dos.c);
GPT by UEFI specification 2.10, 5.3. What is read is not trusted; every count has a bound.
"""

import binascii
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imagebuilder.base.formats import HEAD, TAIL, check_disk_image, compression_of
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image import signatures
from imagebuilder.image.partitions import EXTENDED_TYPES, GPT_TYPE, SECTOR, Slice, TableError, read_table
from imagebuilder.reading import open_regular

_ENTRIES = 446  # offset of the four entries of an MBR
_ENTRY = struct.Struct("<B3xB3xII")  # state, type, first sector, sectors
_LOGICAL = 128  # logical partitions at most; Linux has 60

_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQII")
_GPT_SIGNATURE = b"EFI PART"
_GPT_SECTORS = (512, 4096)  # bytes; the header is in the second sector
_GPT_ENTRY = struct.Struct("<16s16sQQ")
_GPT_COUNT, _GPT_SIZE = 1024, 4096  # entries, and bytes of one, at most; 128 of each is usual


@dataclass(frozen=True)
class ImageFile:
    """An image file that was examined. ``size`` is in bytes.

    ``slices`` are its primary partitions if it has an MBR with no others; ``notes`` are for the user.
    """

    size: int
    slices: tuple[Slice, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Gpt:
    """A GPT: its partitions, and the place of its second header in bytes."""

    parts: "list[_Part]"
    second: int


@dataclass(frozen=True)
class _Part:
    """A partition of any table: ``start`` and ``end`` (exclusive) in bytes."""

    number: int
    start: int
    end: int


def examine_image_file(image: Path, name: str) -> ImageFile:
    """Examine the image file ``image``, called ``name`` in messages.

    Raises UsageError when it is no disk image, is compressed, or ends before one of its partitions does.
    A partition may end behind the image if its file system does not: OpenWrt's images are of this kind.
    """
    try:
        with open_regular(image) as stream:  # refuses a pipe, which would block
            size = os.fstat(stream.fileno()).st_size
            _check_kind(stream, size, name)
            slices, parts, notes = _table(image, stream, name, size)
            notes += _short(stream, parts, size, name)
    except OSError as error:
        raise UsageError(f"{image}: {error.strerror}", "give the path of an image file") from error
    return ImageFile(size, slices, tuple(notes))


def _check_kind(stream: BinaryIO, size: int, name: str) -> None:
    if size == 0:
        raise UsageError(f"{name} is empty", "build or fetch it again")
    head = _at(stream, 0, HEAD)
    suffix = compression_of(head)
    if suffix != ".img":
        hint = "piimg flash --image and piimg fetch unpack it, if its name ends so"
        raise UsageError(f"{name} is compressed ({suffix})", hint)
    try:
        check_disk_image(head, name, tail=_at(stream, max(size - TAIL, 0), TAIL))
    except PiimgError as error:
        raise UsageError(error.message, error.hint) from error


def _table(
    image: Path, stream: BinaryIO, name: str, size: int
) -> tuple[tuple[Slice, ...], list[_Part], list[str]]:
    """The slices of an MBR, the partitions of any table, and notes."""
    sector = _at(stream, 0, SECTOR)
    primary = list(_primary(sector))
    types = {kind for kind, _ in primary}
    gpt = _gpt(stream)
    if gpt is not None or GPT_TYPE in types:
        return (), *_of_gpt(gpt, [part for kind, part in primary if kind != GPT_TYPE], name, size)
    if types & set(EXTENDED_TYPES):
        parts = [part for kind, part in primary]
        for kind, part in primary:
            if kind in EXTENDED_TYPES:
                parts += _logical(stream, part.start)
        count = sum(part.number > 4 for part in parts)
        note = f"{name} has an extended partition with {_partitions(count, 'logical ')}: written as it is"
        return (), parts, [note]
    try:
        slices = read_table(image).slices
    except TableError as error:
        return (), [], [_no_table(image, name, size, sector, error)]
    return slices, [_Part(part.number, part.start, part.end) for part in slices], []


def _of_gpt(gpt: _Gpt | None, others: list[_Part], name: str, size: int) -> tuple[list[_Part], list[str]]:
    if gpt is None:
        return others, [f"{name} has an MBR that announces a GPT, and no valid GPT: is it damaged?"]
    and_mbr = f" and an MBR with {_partitions(len(others))} (hybrid)" if others else ""
    text = f"{name} has a GPT with {_partitions(len(gpt.parts))}{and_mbr}: written as it is"
    if gpt.second >= size:
        copy = "its second copy, at the end, is missing; sgdisk -e DEVICE creates it on the card"
    else:
        copy = "its second copy is then not at the end of a larger card; sgdisk -e DEVICE moves it there"
    return [*gpt.parts, *others], [f"{text}; {copy}"]


def _no_table(image: Path, name: str, size: int, sector: bytes, error: TableError) -> str:
    kind, usage = signatures.at(image, 0, size)
    if usage == "filesystem":
        return f"{name} is a file system ({kind}) without a partition table: is it the right file?"
    if sector[510:] == b"\x55\xaa":
        return f"{name} {error.problem}: is it the right file?"
    return f"{name} has no partition table: is it the right file?"


def _partitions(count: int, kind: str = "") -> str:
    return f"{count} {kind}partition{'s' * (count != 1)}"


def _primary(sector: bytes) -> Iterator[tuple[int, _Part]]:
    """The type and the place of each entry of an MBR that is used."""
    if len(sector) < SECTOR or sector[510:] != b"\x55\xaa":
        return
    entries = [_ENTRY.unpack_from(sector, _ENTRIES + 16 * index) for index in range(4)]
    if any(state & 0x7F for state, *_ in entries):  # the boot sector of a file system, which has no entries
        return
    for number, (_, kind, first, count) in enumerate(entries, 1):
        if kind and count:
            yield kind, _Part(number, first * SECTOR, (first + count) * SECTOR)


def _logical(stream: BinaryIO, base: int) -> Iterator[_Part]:
    """The logical partitions in the extended partition at ``base``: a chain of sectors like an MBR each."""
    here, seen = base, set[int]()
    while here not in seen and len(seen) < _LOGICAL:
        seen.add(here)
        following = None
        for kind, part in _primary(_at(stream, here, SECTOR)):
            if kind in EXTENDED_TYPES:
                following = base + part.start
            else:
                yield _Part(4 + len(seen), here + part.start, here + part.end)
        if following is None:
            return
        here = following


def _gpt(stream: BinaryIO) -> _Gpt | None:
    """The first copy of a GPT; None when there is no valid one at the start of the image."""
    for sector in _GPT_SECTORS:
        header = _at(stream, sector, sector)
        if len(header) < _GPT_HEADER.size or not header.startswith(_GPT_SIGNATURE):
            continue
        fields = _GPT_HEADER.unpack_from(header)
        length, checksum, where, count, each = fields[2], fields[3], fields[10], fields[11], fields[12]
        if not (_GPT_HEADER.size <= length <= len(header) and _GPT_ENTRY.size <= each <= _GPT_SIZE):
            return None
        without = header[:16] + bytes(4) + header[20:length]
        if count > _GPT_COUNT or where >= 1 << 54 or binascii.crc32(without) != checksum:
            return None
        parts = _gpt_parts(_at(stream, where * sector, count * each), each, sector)
        return _Gpt(list(parts), fields[6] * sector)
    return None


def _gpt_parts(entries: bytes, each: int, sector: int) -> Iterator[_Part]:
    for index in range(len(entries) // each):
        kind, _, first, last = _GPT_ENTRY.unpack_from(entries, index * each)
        if any(kind) and last >= first:
            yield _Part(index + 1, first * sector, (last + 1) * sector)


def _short(stream: BinaryIO, parts: list[_Part], size: int, name: str) -> list[str]:
    """Notes about partitions that end behind the image. Raises UsageError when one is cut short."""
    notes = []
    for part in parts:
        if part.end <= size:
            continue
        missing = f"partition {part.number} ends {part.end - size} bytes behind its end"
        length = _file_system(stream, part.start) if part.start < size else None
        if length is None or part.start + length > size:
            whole = max(one.end for one in parts)
            raise UsageError(
                f"{name} is cut short: {missing}",
                "download or copy it again, and compare its checksum with the published one\n"
                f"if nothing is missing but zeros, add them: truncate -s {whole} FILE",
            )
        notes.append(f"{name}: {missing}; the file system in it is complete")
    return notes


def _file_system(stream: BinaryIO, start: int) -> int | None:
    """The size in bytes that a file system says it has; None when it is of no kind that is known here.

    ext2, 3, 4: the superblock (kernel, fs/ext4/ext4.h, struct ext4_super_block). SquashFS 4.0: bytes_used of
    its superblock (kernel, fs/squashfs/squashfs_fs.h). FAT: Microsoft's "FAT: General Overview" 1.03.
    """
    head = _at(stream, start, 4096)
    if len(head) < 4096:
        return None
    if head[:4] == b"hsqs":
        return int(struct.unpack_from("<Q", head, 40)[0])
    if head[1080:1082] == b"\x53\xef":
        low, exponent = struct.unpack_from("<I", head, 1028)[0], struct.unpack_from("<I", head, 1048)[0]
        wide = struct.unpack_from("<I", head, 1024 + 96)[0] & 0x80  # INCOMPAT_64BIT
        high = struct.unpack_from("<I", head, 1024 + 336)[0] if wide else 0
        return (high << 32 | low) << (10 + exponent) if exponent <= 6 else None
    if head[510:512] == b"\x55\xaa" and head[0] in (0xEB, 0xE9):
        sector = struct.unpack_from("<H", head, 11)[0]
        total = struct.unpack_from("<H", head, 19)[0] or struct.unpack_from("<I", head, 32)[0]
        return sector * total if sector in (512, 1024, 2048, 4096) and total else None
    return None


def _at(stream: BinaryIO, position: int, length: int) -> bytes:
    """Up to ``length`` bytes from ``position``; fewer at the end."""
    try:
        return os.pread(stream.fileno(), length, position)
    except OverflowError:  # a position that no file has
        return b""
