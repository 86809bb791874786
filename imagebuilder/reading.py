"""Files that a user names or writes: regular ones only, read with a limit, and never waited for."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

SMALL = 4 << 20  # bytes; keys, checksums, notes of one's own
LARGE = 256 << 20  # bytes; documents that grow with the number of files in an image

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a regular file",
}


def kind_of(mode: int) -> str:
    """What a file of this ``st_mode`` is, in words with their article."""
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def open_regular(path: Path) -> BufferedReader:
    """Open the regular file that ``path`` leads to, for reading.

    What it is is decided on a descriptor that only names it (open(2), O_PATH): nothing else is opened, so
    no pipe is waited for and no device notices. Raises OSError, for a pipe, a device or a folder too.
    """
    named = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = os.fstat(named).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, not a regular file", str(path))
        try:
            handle = os.open(f"/proc/self/fd/{named}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(named)
    return os.fdopen(handle, "rb")


def check_regular(path: Path) -> None:
    """Raise OSError unless ``path`` leads to a regular file that may be read."""
    open_regular(path).close()


def read_regular(path: Path, limit: int) -> bytes:
    """The content of the regular file that ``path`` leads to, at most ``limit`` bytes.

    Raises OSError, for a larger file and for anything but a regular file too.
    """
    with open_regular(path) as stream:
        return read_to(stream, limit, path)


def read_to(stream: BinaryIO, limit: int, path: Path) -> bytes:
    """The rest of an open file, at most ``limit`` bytes. Raises OSError naming ``path`` if there is more."""
    content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {_size(limit)}", str(path))
    return content


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
