"""Files of the host: written under a temporary name, synced, then renamed; copies that stay sparse."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from imagebuilder.errors import PiimgError

_FICLONE = 0x40049409  # linux/fs.h
_COPY_BLOCK = 4 << 20  # bytes
_FLUSH_PAUSE = 0.02  # seconds


@contextlib.contextmanager
def replacing(target: Path, mode: int = 0o644) -> Iterator[Path]:
    """Give a temporary path beside ``target``; on success sync it and rename it into place.

    Whatever ends the block early removes the temporary file and leaves ``target`` as it was.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(mode)
        yield temporary
        sync_file(temporary)
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(work: Path) -> Iterator[Path]:
    """Give a folder beside the unfinished file ``work``, for its owner alone; removed at the end.

    Its name begins with that of ``work``: what removes the one after a kill finds the other.
    """
    with tempfile.TemporaryDirectory(prefix=f"{work.name}.", suffix=".partial", dir=work.parent) as name:
        yield Path(name)


def scratches_of(work: Path) -> list[Path]:
    """The scratch folders of ``work`` that a killed run left."""
    return list(work.parent.glob(f"{glob.escape(work.name)}.*.partial"))


def hand_over(path: Path, folder: Path) -> None:
    """Under sudo, what is made in somebody's ``folder`` stays theirs: give ``path`` to its owner."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def make_private(folder: Path, home: Path) -> None:
    """Make ``folder`` and what lies above it where it is missing, 0700, for the owner of ``home``."""
    for one in (*reversed(folder.parents), folder):
        if not one.exists():
            one.mkdir(mode=0o700, exist_ok=True)
            hand_over(one, home)


def write(target: Path, content: bytes, mode: int = 0o644) -> None:
    """Write ``content`` to ``target`` atomically and durably, with ``mode``."""
    with replacing(target, mode) as temporary:
        temporary.write_bytes(content)


def write_json(target: Path, document: object) -> None:
    """Write ``document`` as indented JSON, atomically."""
    write(target, (json.dumps(document, indent=2, sort_keys=False) + "\n").encode())


def sync_file(path: Path) -> None:
    """Flush a file's data to its disk. Raises OSError when the disk cannot take it."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def flushing(path: Path) -> Iterator[None]:
    """Flush a file's data to its disk while the block writes it, and the rest of it at the end.

    What uses the file next would have to wait for it: e2fsprogs and loop devices flush it first.
    Raises OSError when the disk cannot take it.
    """
    done = threading.Event()

    def flush() -> None:
        while not done.wait(_FLUSH_PAUSE):
            sync_file(path)

    with ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(flush)
        try:
            yield
        finally:
            done.set()
        flushed.result()
    sync_file(path)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to its disk, so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file: shared blocks (reflink) where the file system can, else a copy that keeps the holes.

    Raises PiimgError when the disk is full.
    """
    try:
        # Not "wb": ext4 writes a file out when it is closed, and waits, if it was cut to nothing before.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with source.open("rb") as reader, os.fdopen(os.open(target, flags, 0o666), "r+b") as writer:
            if os.fstat(writer.fileno()).st_size:
                os.ftruncate(writer.fileno(), 0)
            try:
                fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
                return
            except OSError:
                pass  # not one file system, or one without reflinks
            size = os.fstat(reader.fileno()).st_size
            os.ftruncate(writer.fileno(), size)
            copy_range(reader, writer, 0, 0, size)
    except OSError as error:
        raise PiimgError(
            f"cannot copy {source} to {target}: {error.strerror}", "free some room, or choose another folder"
        ) from error


def copy_range(source: BinaryIO, target: BinaryIO, start: int, to: int, size: int) -> None:
    """Copy ``size`` bytes from ``start`` of one open file to ``to`` of another, leaving holes out.

    Where the source has a hole the target keeps what it has. Raises OSError.
    """
    for low, high in data_ranges(source.fileno(), start, start + size):
        position = low
        while position < high:
            count = _copy_some(
                source.fileno(), target.fileno(), position, to + position - start, high - position
            )
            if count == 0:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            position += count


def _copy_some(source: int, target: int, start: int, to: int, size: int) -> int:
    """Copy up to ``size`` bytes between two open files, and say how many."""
    size = min(_COPY_BLOCK, size)
    try:
        return os.copy_file_range(source, target, size, start, to)
    except OSError as error:
        # From one file system to another it does not go, nor on every file system.
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    os.lseek(target, to, os.SEEK_SET)
    return os.sendfile(target, source, start, size)


def data_ranges(handle: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The (start, end) byte ranges between ``start`` and ``end`` of an open file that are not holes."""
    position = start
    while position < end:
        try:
            low = os.lseek(handle, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        if low >= end:
            return
        position = min(end, os.lseek(handle, low, os.SEEK_HOLE))
        yield low, position


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path`` (made if missing); PiimgError(``busy``) if it is taken."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PiimgError(
            f"cannot write to {path.parent}: {error.strerror}",
            "choose another folder, or run piimg with sudo",
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PiimgError(busy, "wait for the other run to end, or stop it") from None
        yield
    finally:
        os.close(handle)
