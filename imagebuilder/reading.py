"""Reader for files that the user names: regular files only, with a size limit, never blocking."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

SMALL = 4 << 20  # bytes; for keys, checksums and small documents
LARGE = 256 << 20  # bytes; for documents that grow with the number of files in an image

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
    """The kind of a file with this ``st_mode``, in words with their article."""
    return _KINDS.get(stat.S_IFMT(mode), "a file of an unknown kind")


def open_regular(path: Path) -> BufferedReader:
    """Open the regular file at ``path`` for reading; symbolic links are followed.

    Its kind is checked on a descriptor without access (open(2), O_PATH), so that a pipe does not block and a
    device is not opened. Raises OSError, also for a pipe, a device or a folder.
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
    """Raise OSError unless ``path`` is a readable regular file; symbolic links are followed."""
    open_regular(path).close()


def read_regular(path: Path, limit: int) -> bytes:
    """The content of the regular file at ``path``, at most ``limit`` bytes.

    Raises OSError, also for a larger file and for anything but a regular file.
    """
    with open_regular(path) as stream:
        return read_to(stream, limit, path)


def read_to(stream: BinaryIO, limit: int, path: Path) -> bytes:
    """The rest of an open file, at most ``limit`` bytes. Raises OSError naming ``path`` if it is larger."""
    content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {_size(limit)}", str(path))
    return content


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
