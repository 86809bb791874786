"""Files of the host: written under a temporary name, synced, then renamed; copies that stay sparse."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import secrets
import select
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from imagebuilder.errors import PiimgError
from imagebuilder.reading import kind_of
from imagebuilder.system.place import SavePlace, found

_FICLONE = 0x40049409  # linux/fs.h
_COPY_BLOCK = 4 << 20  # bytes
_FLUSH_PAUSE = 0.02  # seconds
_STEM = 200  # bytes of a file's name that its temporary name begins with
_PATIENCE = 10.0  # seconds that a pipe or a device is given to take something


@contextlib.contextmanager
def replacing(target: Path, mode: int = 0o644) -> Iterator[Path]:
    """Give a temporary path beside ``target``; on success sync it and rename it into place.

    Whatever ends the block early removes the temporary file and leaves ``target`` as it was. A link is
    kept, and what it leads to is replaced. A file that was there keeps its owner, where we may choose, and
    any stricter mode. Raises OSError when ``target`` leads to anything but a regular file or nothing.
    """
    with found(target) as place:
        _refuse_stream(place, target)
        with _beside(place, mode, target) as (handle, name):
            yield place.path_of(name, target)
            _put(place, handle, name, target)


def write(target: Path, content: bytes, mode: int = 0o644, *, stream: bool = False) -> None:
    """Write ``content`` to ``target`` atomically and durably, with ``mode``, as ``replacing`` does.

    With ``stream`` a character device, a pipe or a descriptor of this process (/dev/stdout) is admitted as
    well, and is written into. A block device never is. Raises OSError.
    """
    with found(target) as place:
        if place.is_stream:
            if not stream:
                _refuse_stream(place, target)
            _send(place, content)
            return
        with _beside(place, mode, target) as (handle, name):
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(handle, rest) :]
            _put(place, handle, name, target)


def write_json(target: Path, document: object, *, stream: bool = False) -> None:
    """Write ``document`` as indented JSON, as ``write`` does."""
    write(target, (json.dumps(document, indent=2, sort_keys=False) + "\n").encode(), stream=stream)


def check(target: Path) -> None:
    """Raise OSError unless a regular file may be put at ``target``, or into the place of the one there."""
    with found(target) as place:
        _refuse_stream(place, target)


def remove(target: Path) -> None:
    """Remove the regular file that ``target`` leads to, if there is one; a link stays. Raises OSError."""
    with found(target) as place:
        _refuse_stream(place, target)
        if place.found is not None:
            os.unlink(place.name, dir_fd=place.folder)


def _refuse_stream(place: SavePlace, target: Path) -> None:
    if place.is_stream:
        kind = kind_of(place.found.st_mode) if place.found else "no file"
        kind = "a file that is open already" if kind == "a regular file" else kind
        raise OSError(errno.EINVAL, f"it is {kind}, and a file is to be put there", str(target))


@contextlib.contextmanager
def _beside(place: SavePlace, mode: int, target: Path) -> Iterator[tuple[int, str]]:
    """Give a new file in the folder of ``place``, open for writing, and its name; gone at the end."""
    stem = os.fsdecode(os.fsencode(place.name)[:_STEM])
    name = f".{stem}.{secrets.token_hex(8)}.partial"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, mode, dir_fd=place.folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    try:
        if place.found is not None:
            if os.geteuid() == 0 and place.keeps_owner:
                with contextlib.suppress(PermissionError):  # a file system that knows no owners
                    os.fchown(handle, place.found.st_uid, place.found.st_gid)
            os.fchmod(handle, mode & stat.S_IMODE(place.found.st_mode))
        yield handle, name
    finally:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place.folder)


def _put(place: SavePlace, handle: int, name: str, target: Path) -> None:
    """Sync the file ``name`` that is open as ``handle``, and give it the name that it is for."""
    os.fsync(handle)
    ours = place.status_of(name)
    if ours is None or not os.path.samestat(os.fstat(handle), ours):
        raise OSError(errno.ESTALE, "another program took the unfinished file away", str(target))
    now = place.status_of(place.name)
    if now is not None and not stat.S_ISREG(now.st_mode):
        raise OSError(errno.EEXIST, f"it is {kind_of(now.st_mode)} by now", str(target))
    try:
        os.rename(name, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    with contextlib.suppress(PermissionError):  # a folder that may be written to, and not be read
        sync_folder(Path(f"/proc/self/fd/{place.folder}"))


def _send(place: SavePlace, content: bytes) -> None:
    """Write into what is no file. What is opened here is waited for only so long; raises TimeoutError."""
    if place.own is not None:
        handle, patience = os.dup(place.own), None  # as all else that is printed: a pager may take its time
        for printed in (sys.stdout, sys.stderr):
            printed.flush()
    else:
        handle, patience = _opened_stream(place), _PATIENCE
    try:
        _pour(handle, content, patience)
    finally:
        os.close(handle)


def _opened_stream(place: SavePlace) -> int:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{place.handle}", flags)
    except OSError as error:
        if error.errno == errno.ENXIO and place.found and stat.S_ISFIFO(place.found.st_mode):
            raise OSError(errno.ENXIO, "it is a pipe that nobody reads from") from None
        raise OSError(error.errno, error.strerror) from None


def _pour(handle: int, content: bytes, patience: float | None) -> None:
    """Write ``content`` bit by bit, each within ``patience`` seconds; without it however long that takes."""
    poll, rest = select.poll(), memoryview(content)
    poll.register(handle, select.POLLOUT)
    while rest:
        if not poll.poll(None if patience is None else 1000 * patience):
            raise TimeoutError(errno.ETIMEDOUT, f"nothing was taken in {patience:g} seconds")
        with contextlib.suppress(BlockingIOError):
            rest = rest[os.write(handle, rest[: select.PIPE_BUF]) :]


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


def open_plain(file: Path, flags: int) -> int:
    """Open a file by os.open's ``flags``, 0600 if it is made; give its descriptor, the caller's to close.

    It must be a regular file, not a link to one. What it is is decided on a descriptor that only names it
    (open(2), O_PATH): no pipe is waited for, and no device notices. Raises OSError.
    """
    while True:
        try:
            named = os.open(file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            with contextlib.suppress(FileExistsError):  # another program was quicker: look at that one
                return os.open(file, flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            continue
        try:
            mode = os.fstat(named).st_mode
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, not a regular file", str(file))
            return os.open(f"/proc/self/fd/{named}", flags & ~os.O_CREAT | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(file)) from None
        finally:
            os.close(named)


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
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
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
        # Nothing is written to it. A link might have it made anywhere.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PiimgError(f"{path} is a symbolic link, not a regular file", "remove it") from error
        raise PiimgError(
            f"cannot write to {path.parent}: {error.strerror}",
            "choose another folder, or run piimg with sudo",
        ) from error
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise PiimgError(f"{path} is {kind_of(mode)}, not a regular file", "remove it")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PiimgError(busy, "wait for the other run to end, or stop it") from None
        yield
    finally:
        os.close(handle)
