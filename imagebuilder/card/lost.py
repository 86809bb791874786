"""What would be lost if a card were erased, as far as that can be told without mounting it.

A new card comes with an empty FAT or exFAT file system; there, and where nothing begins at all, nothing is
lost. Whatever else there is, or cannot be made out, somebody may miss.
"""

import os
from pathlib import Path

from imagebuilder.card.carried import parse_unfinished
from imagebuilder.errors import PiimgError
from imagebuilder.image import exfat
from imagebuilder.image.guarded import fat_names
from imagebuilder.image.partitions import Slice, read_table
from imagebuilder.system import blockdev
from imagebuilder.text import printable

_BLANK = (b"\0", b"\xff")
_START = 1 << 20  # bytes; every partition table, file system, LUKS header and the like begins within them
_SECTOR = 512  # bytes
_SIGNATURE = b"\x55\xaa"  # of an MBR, and of the boot sector of a file system
_FAT_TYPES = (
    0x01,
    0x04,
    0x06,
    0x0B,
    0x0C,
    0x0E,
)  # of an MBR; the UEFI specification leaves them to the FAT's
_EXFAT_TYPE = 0x07  # NTFS has it too
_SHOWN, _LETTERS = 3, 24  # names that are told, and how much of each

_SYSTEM = frozenset({"system volume information", ".fseventsd", ".spotlight-v100", "lost.dir"})
"""What Windows, macOS and Android put on every card they see, in lower case: nobody misses it."""


def what_is_lost(device: Path) -> str:
    """What ``device`` holds that somebody may miss, in words; empty when there is nothing.

    A card that piimg was cut off at holds nothing. Raises PiimgError when it cannot be read.
    """
    start = read_start(device)
    if parse_unfinished(start) is not None or (not start.strip(start[:1]) and start[:1] in _BLANK):
        return ""
    if start[3:11] == exfat.SIGN or _is_fat(start):  # without a partition table
        return _in_file_system(device, 0, start[3:11] == exfat.SIGN)
    try:
        slices = read_table(device).slices
    except PiimgError:
        if start[_SECTOR : _SECTOR + 8] == b"EFI PART":
            return "a partition table (GPT)"
        return (
            "an unknown partition table" if start[510:512] == _SIGNATURE else "something without partitions"
        )
    if not slices and start[_SECTOR:].strip(b"\0"):
        return "something without partitions"
    return "; ".join(found for one in slices if (found := _in_partition(device, one)))


def read_start(device: Path) -> bytes:
    """The first MiB of a card, or all of a smaller one. Raises PiimgError when it cannot be read."""
    start = bytearray(_START)
    try:
        handle = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = min(_START, os.lseek(handle, 0, os.SEEK_END))
            blockdev.read_at(handle, memoryview(start)[:size], 0)
        finally:
            os.close(handle)
    except OSError as error:
        raise PiimgError(f"cannot read {device}: {error.strerror}", "try another card or reader") from error
    return bytes(start[:size])


def _is_fat(start: bytes) -> bool:
    return start[510:512] == _SIGNATURE and (start[54:57] == b"FAT" or start[82:87] == b"FAT32")


def _in_partition(device: Path, one: Slice) -> str:
    if one.type in _FAT_TYPES or one.type == _EXFAT_TYPE:
        found = _in_file_system(device, one.start, one.type == _EXFAT_TYPE)
        return f"{found} on partition {one.number}" if found else ""
    return f"partition {one.number} of type {one.type:02x}"


def _in_file_system(device: Path, offset: int, is_exfat: bool) -> str:
    try:
        names = exfat.names_at_top(device, offset) if is_exfat else fat_names(device, offset)
    except PiimgError:
        return "something that cannot be made out"
    missed = [printable(name, None, instead=" ")[:_LETTERS] for name in names if name.lower() not in _SYSTEM]
    more = ", …" if len(missed) > _SHOWN else ""
    return f"files ({', '.join(missed[:_SHOWN])}{more})" if missed else ""
