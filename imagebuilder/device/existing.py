"""What would be lost if a card were erased, as far as that can be told without mounting it.

A new card comes with an empty FAT or exFAT file system, or with nothing at all. Only such a card is empty:
what else there is, or cannot be read or made out, somebody may miss. docs/station.md has the exact rule.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.device.identity import Carried, parse_unfinished
from imagebuilder.device.sample import MIB, Span, first_of_something, gaps
from imagebuilder.errors import PiimgError
from imagebuilder.image import signatures
from imagebuilder.image.filesystem import FileSystem, file_system, walk
from imagebuilder.image.partitions import EXFAT_TYPE, FAT_TYPES, SECTOR, Slice, read_table
from imagebuilder.image.untrusted import InvalidFormat, RawReader, ReadError, raw_reader
from imagebuilder.text import printable

PATIENCE = 60.0  # seconds for looking at a card
_SIGNATURE = b"\x55\xaa"  # of an MBR, and of the boot sector of a file system
_SHOWN, _LETTERS = 3, 24  # names that are shown, and how much of each
_SYSTEM = re.compile(
    r"system volume information/(indexervolumeguid|wpsettings\.dat)?"
    r"|\.fseventsd/(fseventsd-uuid|no_log|[0-9a-f]{16})?"
    r"|\.spotlight-v100/(volumeconfiguration\.plist|store-v[12]/.*)?"
    r"|\.trashes/(\d+/)?|\._\.trashes|\.ds_store|lost\.dir/"
)
"""What Windows, macOS and Android put on every card they see, in lower case; all else counts."""


def what_is_lost(device: Path) -> str:
    """What ``device`` holds that somebody may miss, in words; empty when there is nothing.

    A card that piimg was cut off at holds nothing. What cannot be read counts as something. Raises
    PiimgError when the device cannot be opened.
    """
    with raw_reader(device, PATIENCE) as card:
        try:
            return _lost(card)
        except ReadError as error:
            return f"what cannot be looked at: {error.problem}"
        except PiimgError as error:
            return f"what cannot be looked at: {printable(error.message)}"


def unfinished_on(device: Path) -> Carried | None:
    """What a card was to become when piimg was cut off at it; None when it was not.

    Raises PiimgError when the device cannot be opened.
    """
    with raw_reader(device, PATIENCE) as card:
        try:
            return parse_unfinished(card.read(0, min(SECTOR, card.size)))
        except ReadError:
            return None


def is_of_a_system(path: str) -> bool:
    """Whether a path is one that Windows, macOS or Android puts on every card; a folder ends with a slash."""
    return _SYSTEM.fullmatch(path.lower()) is not None


def shown(paths: Sequence[str]) -> str:
    """The first few of ``paths``, fit for a terminal."""
    some = [printable(path.removesuffix("/"), _LETTERS) for path in paths[:_SHOWN]]
    return ", ".join([*some, "…"] if len(paths) > _SHOWN else some)


def _lost(card: RawReader) -> str:
    if card.size < SECTOR:
        return "nothing that can be read"
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
    found = [lost for one in slices if (lost := _in_partition(card, one, used))]
    return "; ".join(found) or _elsewhere(card, slices, used)


def _in_partition(card: RawReader, one: Slice, used: list[Span]) -> str:
    """What is lost of a partition. What belongs to its file system, where that is empty, joins ``used``."""
    size = min(one.end, card.size) - one.start
    what = _in_file_system(card, one.start, size, used) if one.type in (*FAT_TYPES, EXFAT_TYPE) else None
    if what is None:
        what = _title(*signatures.at(card.path, one.start, size)) if size > 0 else ""
        if not what:
            return f"partition {one.number} of type {one.type:02x}"
    return f"{what} on partition {one.number}" if what else ""


def _in_file_system(card: RawReader, offset: int, size: int, used: list[Span]) -> str | None:
    """What is lost of a FAT or exFAT file system, whose bytes join ``used``; None where there is none."""
    try:
        system = file_system(card, offset, size)
        if system is None:
            return None
        used += system.spans
        return _files(system)
    except InvalidFormat:
        return "a FAT or exFAT file system that cannot be made out"


def _files(system: FileSystem) -> str:
    """The files of a file system that somebody may miss, in words: "files (DCIM, a.txt)"; empty for none.

    Data in use that belongs to no file count too. Raises InvalidFormat and ReadError.
    """
    missed, known = [], set(system.own)
    for path, entry in walk(system, is_of_a_system):
        if is_of_a_system(path):
            known |= system.clusters(entry)
        else:
            missed.append(path)
        if len(missed) > _SHOWN:
            break
    if missed:
        return f"files ({shown(missed)})"
    return "data of files that have no name any more" if system.uses_more_than(frozenset(known)) else ""


def _elsewhere(card: RawReader, slices: Sequence[Slice] | None, used: Sequence[Span]) -> str:
    """What there is on the card beside ``used``; with ``slices`` None it has no partition table."""
    for part in gaps(used, card.size):
        place = first_of_something(card, part)
        if place is not None:
            return _told(card, slices, *_named(card, part, place))
    for place, kind in signatures.everywhere(card.path):
        if not any(low <= place < high for low, high in used):
            return _told(card, slices, f"a signature of {kind}", place)
    return ""


def _told(card: RawReader, slices: Sequence[Slice] | None, what: str, place: int) -> str:
    text = f"{what} at byte {place}"
    inside = next((one for one in slices or () if one.start <= place < one.end), None)
    if inside is not None:
        return f"{text}, on partition {inside.number} but outside of its file system"
    return f"{text} outside of any partition" if slices is not None else text


def _named(card: RawReader, part: Span, place: int) -> tuple[str, int]:
    """What begins at or before byte ``place``, the first that is not blank, and where that begins."""
    sector = place // SECTOR * SECTOR
    # How far behind their start formats have their first bytes: ext4 1024, LVM 512, swap 4086 (the end of a
    # page), ISO 9660 32 KiB, btrfs 64 KiB. blkid(8) looks for their magic from the start.
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
    """What libblkid found, in words; empty for nothing."""
    if not kind:
        return ""
    article = "an" if kind.startswith(("a", "e", "i", "o", "ntfs", "xfs", "f2fs")) else "a"
    titles = {"filesystem": f"{article} {kind} file system", "raid": f"a part of a RAID or LVM ({kind})"}
    return titles.get(usage) or f"{'encrypted data' if usage == 'crypto' else 'data'} ({kind})"
