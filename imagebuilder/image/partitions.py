"""Partition tables of images and cards: the only module that uses libparted.

libparted never opens the image or the card itself. It opens devices for writing, looks for a dozen other
kinds of label after the first sector, and crashes on some damaged GPT headers. So it gets an anonymous file
in memory with the first sector only. Only the four entries are copied back, because libparted also writes
boot code and, if there was none, a new disk id, which would invalidate every PARTUUID in fstab and
cmdline.txt.

An MBR (UEFI specification 2.10, 5.2.1): 440 bytes of boot code, the disk id (4 bytes, little-endian), 2 bytes
unused, four entries of 16 bytes (type in byte 4), and the signature 55 AA.
"""

import contextlib
import dataclasses
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagebuilder.errors import PiimgError
from imagebuilder.system.blockdev import rights_hint

if TYPE_CHECKING:
    import parted  # only Linux has libparted: it is loaded when a table is parsed, and piimg plan parses none

SECTOR = 512  # bytes; the only sector size of SD cards and their images
FAT32_TYPES = (0x0B, 0x0C)
FAT_TYPES = (0x01, 0x04, 0x06, *FAT32_TYPES, 0x0E)
"""The MBR types of FAT12, FAT16 and FAT32 (UEFI specification 2.10, 5.2.1 leaves them to their owners)."""

EXFAT_TYPE = 0x07
"""The MBR type of exFAT, and of NTFS."""

LINUX_TYPE = 0x83

_ID = slice(440, 444)
_ENTRIES = slice(446, 510)
_SIGNATURE = b"\x55\xaa"
GPT_TYPE = 0xEE
EXTENDED_TYPES = (0x05, 0x0F, 0x85)
_MBR_REACH = 2 << 32 << 9  # bytes; no entry of an MBR can reach beyond this
_LAYOUT = (
    "piimg needs an image laid out like Raspberry Pi OS: a FAT boot partition and an ext4 root partition"
)
_AGAIN = "fetch or copy the image again"

_libparted = threading.Lock()  # libparted keeps global state and is not safe in two threads


class TableError(PiimgError):
    """``path`` has no partition table that can be used. ``problem`` is the text without its name."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}", _LAYOUT)
        self.problem = problem


class CutShort(PiimgError):
    """A partition of an image ends behind the end of the image."""


@dataclass(frozen=True)
class Slice:
    """One primary partition: ``number`` from 1, ``start`` and ``size`` in bytes, ``type`` the MBR's byte."""

    number: int
    start: int
    size: int
    type: int

    @property
    def end(self) -> int:
        """The first byte after the partition."""
        return self.start + self.size


@dataclass(frozen=True)
class Table:
    """An MBR. ``disk_id`` is 8 lower-case hex digits, as in PARTUUID=``disk_id``-02; sizes are in bytes."""

    disk_id: str
    sector_size: int
    size: int
    slices: tuple[Slice, ...]

    @property
    def boot_start(self) -> int | None:
        """The start of the first FAT32 partition, in bytes; None without one."""
        return next((part.start for part in self.slices if part.type in FAT32_TYPES), None)

    @property
    def root_start(self) -> int | None:
        """The start of the first Linux partition, in bytes; None without one."""
        return next((part.start for part in self.slices if part.type == LINUX_TYPE), None)


def read_table(path: Path) -> Table:
    """Read the partition table of an image or a card, from its first sector.

    Slices may exceed the end of the image; ``boot_and_root`` checks that. Raises PiimgError when there is no
    MBR (TableError), when it is a GPT, or when the table is not valid, and when it cannot be read.
    """
    sector, size = _first_sector(path)
    _check_label(path, sector)
    with _parsed(path, sector, _MBR_REACH) as (disk, _):
        slices = tuple(_slice(partition, sector) for partition in disk.partitions)
    disk_id = int.from_bytes(sector[_ID], "little")
    return Table(f"{disk_id:08x}", SECTOR, size, tuple(sorted(slices, key=lambda part: part.number)))


def boot_and_root(table: Table, *, with_data: bool = False) -> tuple[Slice, Slice]:
    """The two partitions of a base image: FAT boot, then Linux root. Any other layout is a PiimgError.

    ``with_data``: a Linux partition after root may follow, as on the card of a node with a data partition.
    """
    more = table.slices[2:3] if with_data else ()
    if len(more) == 1 and more[0].type == LINUX_TYPE and more[0].start >= table.slices[1].end:
        table = dataclasses.replace(table, slices=table.slices[:2])
    count = len(table.slices)
    if count != 2:
        raise PiimgError(f"the image has {count} partition{'s' * (count != 1)} instead of two", _LAYOUT)
    boot, root = table.slices
    for part, types, name in ((boot, FAT32_TYPES, "FAT (0c)"), (root, (LINUX_TYPE,), "Linux (83)")):
        if part.type not in types:
            raise PiimgError(f"partition {part.number} is of type {part.type:02x}, not {name}", _LAYOUT)
        if part.end > table.size:
            missing = part.end - table.size
            raise CutShort(
                f"the image is cut short: partition {part.number} ends {missing} bytes behind its end", _AGAIN
            )
    if boot.end > root.start:
        raise PiimgError("the boot partition is not before the root partition", _LAYOUT)
    return boot, root


def grow_root(path: Path, new_size: int) -> None:
    """Grow an image file to ``new_size`` bytes, and its root partition to the end of the file.

    The disk id, the boot code and the starts of the partitions stay. The file system is not grown. Raises
    PiimgError when ``new_size`` is less than the size of the image or exceeds the limit of an MBR.
    """
    table = read_table(path)
    _, root = boot_and_root(table)
    if new_size < table.size:
        raise PiimgError(
            f"cannot shrink {path}: it has {table.size} bytes", f"choose a size of {table.size} bytes or more"
        )
    old, _ = _first_sector(path)
    entries = _extended(path, old, root, new_size)
    try:
        with path.open("r+b") as image:
            image.truncate(new_size)
            os.pwrite(image.fileno(), entries, _ENTRIES.start)
            os.fsync(image.fileno())
    except OSError as error:
        raise PiimgError(
            f"cannot grow {path}: {error.strerror}", "free some space, or choose another folder"
        ) from error


def _extended(path: Path, sector: bytes, root: Slice, size: int) -> bytes:
    """The four entries of a table in which ``root`` reaches to the end of ``size`` bytes."""
    with _parsed(path, sector, size) as (disk, scratch):
        import parted

        partition = next(entry for entry in disk.partitions if entry.number == root.number)
        whole = parted.Geometry(
            device=disk.device, start=root.start // SECTOR, end=min(size, _MBR_REACH) // SECTOR - 1
        )
        disk.setPartitionGeometry(partition, parted.Constraint(exactGeom=whole), whole.start, whole.end)
        disk.commitToDevice()
        return os.pread(scratch, SECTOR, 0)[_ENTRIES]


def _first_sector(path: Path) -> tuple[bytes, int]:
    """The first sector of a file or block device, and its size in bytes."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(handle).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise PiimgError(f"{path} is neither a file nor a block device", "name an image or a card")
            return os.pread(handle, SECTOR, 0), os.lseek(handle, 0, os.SEEK_END)
        finally:
            os.close(handle)
    except OSError as error:
        raise PiimgError(
            f"cannot read {path}: {error.strerror}",
            rights_hint(path, error, "check the path and its permissions"),
        ) from error


def _check_label(path: Path, sector: bytes) -> None:
    if len(sector) < SECTOR or sector[510:] != _SIGNATURE:
        raise TableError(path, "has no partition table")
    types = [_type(sector, number) for number in range(1, 5)]
    if GPT_TYPE in types:
        raise TableError(path, "has a GPT, not an MBR")
    if any(kind in EXTENDED_TYPES for kind in types):
        raise TableError(path, "has an extended partition")


def _type(sector: bytes, number: int) -> int:
    return sector[_ENTRIES.start + 16 * (number - 1) + 4]


def _slice(partition: "parted.Partition", sector: bytes) -> Slice:
    number, where = int(partition.number), partition.geometry
    return Slice(number, int(where.start) * SECTOR, int(where.length) * SECTOR, _type(sector, number))


@contextlib.contextmanager
def _parsed(path: Path, sector: bytes, size: int) -> Iterator[tuple["parted.Disk", int]]:
    """libparted's view of ``sector`` on a disk of ``size`` bytes, and the open file that is this disk.

    Every exception of libparted in the block becomes a PiimgError about ``path``.
    """
    try:
        import parted
    except ImportError as error:
        raise PiimgError(
            f"cannot read the partition table of {path}: {error}",
            "on Debian: sudo apt-get install libparted2; other systems: docs/install.md",
        ) from error
    scratch = os.memfd_create("partition-table")
    try:
        os.pwrite(scratch, sector, 0)
        os.ftruncate(scratch, size)
        with _libparted:
            device = parted.getDevice(f"/proc/self/fd/{scratch}")
            try:
                disk = parted.newDisk(device)
                if disk.type != "msdos":
                    raise TableError(path, "has no MBR partition table")
                yield disk, scratch
            finally:
                device.removeFromCache()  # the next file may have the same descriptor
    except PiimgError:
        raise
    except Exception as error:  # pyparted's fifteen exceptions share no other base
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason.replace(f"/proc/self/fd/{scratch}", "it")
        raise TableError(path, f"has a partition table that cannot be used: {reason}") from error
    finally:
        os.close(scratch)
