"""Find data on a card that would be lost if it were erased, without mounting it.

A new card has an empty FAT or exFAT file system, or no data. Only such a card counts as empty: all other
data, and data that cannot be read or parsed, may be valuable to the user. docs/station.md has the exact rule.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.device.identity import Carried, parse_unfinished
from imagebuilder.device.sample import MIB, Span, first_data, gaps
from imagebuilder.errors import PiimgError
from imagebuilder.image import signatures
from imagebuilder.image.filesystem import FileSystem, file_system, walk
from imagebuilder.image.partitions import EXFAT_TYPE, FAT_TYPES, SECTOR, Slice, read_table
from imagebuilder.image.untrusted import InvalidFormat, RawReader, ReadError, raw_reader
from imagebuilder.text import printable

PATIENCE = 60.0  # seconds; the time limit for examining a card
_SIGNATURE = b"\x55\xaa"  # of an MBR, and of a file system's boot sector
_SHOWN, _LETTERS = 3, 24  # the number of names shown, and the characters of each
_SYSTEM_FILES = re.compile(
    r"system volume information/(indexervolumeguid|wpsettings\.dat)?"
    r"|\.fseventsd/(fseventsd-uuid|no_log|[0-9a-f]{16})?"
    r"|\.spotlight-v100/(volumeconfiguration\.plist|store-v[12]/.*)?"
    r"|\.trashes/(\d+/)?|\._\.trashes|\.ds_store|lost\.dir/"
)
"""Files that Windows, macOS and Android create on every card, in lower case; all others count as data."""


def existing_data(device: Path) -> str:
    """The data on ``device`` that the user may want to keep, in words; empty when there is none.

    A card whose writing was interrupted counts as empty. What cannot be read counts as data. Raises
    PiimgError when the device cannot be opened.
    """
    with raw_reader(device, PATIENCE) as card:
        try:
            return _data_on(card)
        except ReadError as error:
            return f"data that cannot be read: {error.problem}"
        except PiimgError as error:
            return f"data that cannot be read: {printable(error.message)}"


def unfinished_on(device: Path) -> Carried | None:
    """The node whose writing to a card was interrupted; None when no writing was interrupted.

    Raises PiimgError when the device cannot be opened.
    """
    with raw_reader(device, PATIENCE) as card:
        try:
            return parse_unfinished(card.read(0, min(SECTOR, card.size)))
        except ReadError:
            return None


def is_of_a_system(path: str) -> bool:
    """Whether Windows, macOS or Android creates this path on every card; a folder ends with a slash."""
    return _SYSTEM_FILES.fullmatch(path.lower()) is not None


def shown(paths: Sequence[str]) -> str:
    """The first few of ``paths``, made printable."""
    names = [printable(path.removesuffix("/"), _LETTERS) for path in paths[:_SHOWN]]
    return ", ".join([*names, "…"] if len(paths) > _SHOWN else names)


def _data_on(card: RawReader) -> str:
    if card.size < SECTOR:
        return "no readable data"
    first = card.read(0, SECTOR)
    if parse_unfinished(first) is not None:
        return ""
    used: list[Span] = []
    whole = _in_file_system(card, 0, card.size, used)
    if whole is not None:
        return whole or _elsewhere(card, None, used)
    if first[510:] != _SIGNATURE:
        return _elsewhere(card, None, [])
    try:
        slices = read_table(card.path).slices
    except PiimgError:
        if card.size >= 2 * SECTOR and card.read(SECTOR, 8) == b"EFI PART":
            return "a partition table (GPT)"
        return _title(*signatures.at(card.path, 0, card.size)) or "an unknown partition table"
    used.append((0, SECTOR))
    found = [data for part in slices if (data := _in_partition(card, part, used))]
    return "; ".join(found) or _elsewhere(card, slices, used)


def _in_partition(card: RawReader, part: Slice, used: list[Span]) -> str:
    """The data of a partition, in words. The spans of its file system are added to ``used``."""
    size = min(part.end, card.size) - part.start
    data = _in_file_system(card, part.start, size, used) if part.type in (*FAT_TYPES, EXFAT_TYPE) else None
    if data is None:
        data = _title(*signatures.at(card.path, part.start, size)) if size > 0 else ""
        if not data:
            return f"partition {part.number} of type {part.type:02x}"
    return f"{data} on partition {part.number}" if data else ""


def _in_file_system(card: RawReader, offset: int, size: int, used: list[Span]) -> str | None:
    """The data of a FAT or exFAT file system; its spans are added to ``used``. None without a file system."""
    try:
        system = file_system(card, offset, size)
        if system is None:
            return None
        used += system.spans
        return _files(system)
    except InvalidFormat:
        return "an invalid FAT or exFAT file system"


def _files(system: FileSystem) -> str:
    """The files that the user may want to keep, in words: "files (DCIM, a.txt)"; empty for none.

    Clusters in use that belong to no file count too. Raises InvalidFormat and ReadError.
    """
    user_files, known = [], set(system.own)
    for path, entry in walk(system, is_of_a_system):
        if is_of_a_system(path):
            known |= system.clusters(entry)
        else:
            user_files.append(path)
        if len(user_files) > _SHOWN:
            break
    if user_files:
        return f"files ({shown(user_files)})"
    return "data that belongs to no file" if system.uses_more_than(frozenset(known)) else ""


def _elsewhere(card: RawReader, slices: Sequence[Slice] | None, used: Sequence[Span]) -> str:
    """The data on the card outside of ``used``, in words; ``slices`` is None without a partition table."""
    for part in gaps(used, card.size):
        place = first_data(card, part)
        if place is not None:
            return _located(slices, *_named(card, part, place))
    for place, kind in signatures.everywhere(card.path):
        if not any(low <= place < high for low, high in used):
            return _located(slices, f"a signature of {kind}", place)
    return ""


def _located(slices: Sequence[Slice] | None, data: str, place: int) -> str:
    text = f"{data} at byte {place}"
    partition = next((part for part in slices or () if part.start <= place < part.end), None)
    if partition is not None:
        return f"{text}, on partition {partition.number} but outside of its file system"
    return f"{text} outside of any partition" if slices is not None else text


def _named(card: RawReader, part: Span, place: int) -> tuple[str, int]:
    """The name and start of the data that contains byte ``place``, the first byte that is not blank."""
    sector = place // SECTOR * SECTOR
    # The offset of the first bytes of a format from its start: ext4 1024, LVM 512, swap 4086 (the end of a
    # page), ISO 9660 32 KiB, btrfs 64 KiB. blkid(8) searches for the magic from the start.
    starts = [
        place // MIB * MIB,
        *(sector - back for back in (0, 1024, 512, 3584, 32 << 10, 64 << 10)),
        part[0],
    ]
    for start in dict.fromkeys(start for start in starts if part[0] <= start):
        kind, usage = signatures.at(card.path, start, part[1] - start)
        if kind:
            return _title(kind, usage), place if usage == "raid" else start
    for at, kind in signatures.everywhere(card.path):
        if part[0] <= at < part[1]:
            return f"a signature of {kind}", at
    return "data", place


def _title(kind: str, usage: str) -> str:
    """The result of libblkid in words; empty for no result."""
    if not kind:
        return ""
    article = "an" if kind.startswith(("a", "e", "i", "o", "ntfs", "xfs", "f2fs")) else "a"
    titles = {"filesystem": f"{article} {kind} file system", "raid": f"a part of a RAID or LVM ({kind})"}
    return titles.get(usage) or f"{'encrypted data' if usage == 'crypto' else 'data'} ({kind})"
