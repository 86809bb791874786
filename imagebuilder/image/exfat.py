"""What stands at the top of an exFAT file system, which is how larger cards are sold. mtools knows only FAT.

After Microsoft's "exFAT file system specification" (2019): the boot sector (3.1), the FAT (4.1), directory
entries of 32 bytes (6), of which 0x85 begins a file and each 0xC1 behind it has 15 letters of its name (7.4,
7.7). A card may come from anywhere, so everything is bounded, and nothing is believed.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import PiimgError

SIGN = b"EXFAT   "  # at byte 3 of the boot sector

_ENTRY = 32  # bytes
_LARGEST = 4 << 20  # bytes of a directory that are looked at
_END, _FILE, _NAME, _SECONDARY = 0x00, 0x85, 0xC1, 0xC0
_LAST = 0xFFFFFFF7  # a number of a cluster in the FAT from which on it is none


def names_at_top(image: Path, offset: int) -> list[str]:
    """The names of files and folders in the root of the exFAT file system at byte ``offset``.

    Raises PiimgError when there is none, or it makes no sense.
    """
    try:
        handle = os.open(image, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return list(_names(b"".join(_root(image, handle, offset))))
        finally:
            os.close(handle)
    except OSError as error:
        raise PiimgError(f"cannot read {image}: {error.strerror}", "try another reader") from error


def _root(image: Path, handle: int, offset: int) -> Iterator[bytes]:
    """The root directory, cluster after cluster."""
    boot = os.pread(handle, 512, offset)
    if len(boot) < 512 or boot[3:11] != SIGN:
        raise _nonsense(image)
    fat, _, heap, count, cluster = struct.unpack_from("<5I", boot, 80)
    sector, sectors = boot[108], boot[109]  # as powers of two
    if not (9 <= sector <= 12 and sector + sectors <= 25):
        raise _nonsense(image)
    size, read = 1 << (sector + sectors), 0
    while cluster < _LAST:
        if not 2 <= cluster < count + 2 or read >= max(_LARGEST, size):  # or it goes round in a circle
            raise _nonsense(image)
        data = os.pread(handle, size, offset + (heap << sector) + (cluster - 2) * size)
        following = os.pread(handle, 4, offset + (fat << sector) + 4 * cluster)
        if len(data) < size or len(following) < 4:
            raise _nonsense(image)
        yield data
        if data[-_ENTRY] == _END:
            return
        read += size
        (cluster,) = struct.unpack("<I", following)


def _names(directory: bytes) -> Iterator[str]:
    name: bytes | None = None  # of the file whose entries these are
    for at in range(0, len(directory), _ENTRY):
        entry = directory[at : at + _ENTRY]
        if entry[0] & _SECONDARY == _SECONDARY:  # more of the same file
            name = name + entry[2:] if entry[0] == _NAME and name is not None else name
            continue
        if name is not None:
            yield _text(name)
        name = b"" if entry[0] == _FILE else None
        if entry[0] == _END:
            return
    if name is not None:
        yield _text(name)


def _text(name: bytes) -> str:
    return name.decode("utf-16-le", "replace").partition("\0")[0]


def _nonsense(image: Path) -> PiimgError:
    return PiimgError(f"{image.name} has no exFAT file system that makes sense", "it may be damaged")
