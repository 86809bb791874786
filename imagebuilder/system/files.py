"""Files of the host: atomic writes (temporary name, sync, rename), sparse copies, locks."""

import contextlib
import errno
import fcntl
import glob
import itertools
import json
import os
import secrets
import select
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.reading import kind_of
from imagebuilder.system.save_path import SavePlace, found

_FICLONE = 0x40049409  # linux/fs.h
_COPY_BLOCK = 4 << 20  # bytes
_FLUSH_PAUSE = 0.02  # seconds
_STEM = 200  # bytes of a file's name at the start of its temporary name
_POLL = 0.5  # seconds between two tries for a lock
_PATIENCE = 10.0  # seconds until a pipe or a device must accept data


@contextlib.contextmanager
def replacing(target: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success sync it and rename it to ``target``.

    When the block fails, the temporary file is removed and ``target`` does not change. If ``target`` is a
    link, the link stays and its target is replaced. An existing file keeps its owner, if the process may set
    it, and a stricter mode. Raises OSError when ``target`` exists and is not a regular file.
    """
    with found(target) as place:
        _refuse_stream(place, target)
        with _beside(place, mode, target) as (handle, name):
            yield place.path_of(name, target)
            _publish(place, handle, name, target)


def write(target: Path, content: bytes, mode: int = 0o644, *, stream: bool = False) -> None:
    """Write ``content`` to ``target`` atomically and durably, with ``mode``, as ``replacing`` does.

    With ``stream``, ``target`` may also be a character device, a pipe or a descriptor of this process
    (/dev/stdout), which is written to directly. A block device is always refused. Raises OSError.
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
            _publish(place, handle, name, target)


def write_json(target: Path, document: object, mode: int = 0o644, *, stream: bool = False) -> None:
    """Write ``document`` as indented JSON, as ``write`` does."""
    write(target, (json.dumps(document, indent=2, sort_keys=False) + "\n").encode(), mode, stream=stream)


def check(target: Path) -> None:
    """Raise OSError unless a regular file may be created at ``target``, or replaced there."""
    with found(target) as place:
        _refuse_stream(place, target)


def remove(target: Path) -> None:
    """Remove the regular file at ``target``, if it exists; of a link only the target. Raises OSError."""
    with found(target) as place:
        _refuse_stream(place, target)
        if place.found is not None:
            os.unlink(place.name, dir_fd=place.folder)


def _refuse_stream(place: SavePlace, target: Path) -> None:
    if place.is_stream:
        kind = kind_of(place.found.st_mode) if place.found else "no file"
        kind = "a file that is already open" if kind == "a regular file" else kind
        raise OSError(errno.EINVAL, f"it is {kind}, where a file is to be created", str(target))


@contextlib.contextmanager
def _beside(place: SavePlace, mode: int, target: Path) -> Iterator[tuple[int, str]]:
    """Yield a new file in the folder of ``place``, open for writing, and its name; removed at the end."""
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
                with contextlib.suppress(PermissionError):  # a file system without owners
                    os.fchown(handle, place.found.st_uid, place.found.st_gid)
            os.fchmod(handle, mode & stat.S_IMODE(place.found.st_mode))
        yield handle, name
    finally:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place.folder)


def _publish(place: SavePlace, handle: int, name: str, target: Path) -> None:
    """Sync the file ``name`` that is open as ``handle``, and rename it to its final name."""
    os.fsync(handle)
    temporary = place.status_of(name)
    if temporary is None or not os.path.samestat(os.fstat(handle), temporary):
        raise OSError(errno.ESTALE, "another program removed the unfinished file", str(target))
    now = place.status_of(place.name)
    if now is not None and not stat.S_ISREG(now.st_mode):
        raise OSError(errno.EEXIST, f"it is now {kind_of(now.st_mode)}", str(target))
    try:
        os.rename(name, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    with contextlib.suppress(PermissionError):  # a folder that is writable but not readable
        sync_folder(Path(f"/proc/self/fd/{place.folder}"))


def _send(place: SavePlace, content: bytes) -> None:
    """Write to a stream. A stream opened here has limited time to accept the data; raises TimeoutError."""
    if place.own is not None:
        handle, patience = os.dup(place.own), None  # like any other output: a pager may read slowly
        for printed in (sys.stdout, sys.stderr):
            printed.flush()
    else:
        handle, patience = _opened_stream(place), _PATIENCE
    try:
        _write_parts(handle, content, patience)
    finally:
        os.close(handle)


def _opened_stream(place: SavePlace) -> int:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{place.handle}", flags)
    except OSError as error:
        if error.errno == errno.ENXIO and place.found and stat.S_ISFIFO(place.found.st_mode):
            raise OSError(errno.ENXIO, "no program reads from this pipe") from None
        raise OSError(error.errno, error.strerror) from None


def _write_parts(handle: int, content: bytes, patience: float | None) -> None:
    """Write ``content`` in parts, each within ``patience`` seconds (None: without a limit)."""
    poll, rest = select.poll(), memoryview(content)
    poll.register(handle, select.POLLOUT)
    while rest:
        if not poll.poll(None if patience is None else 1000 * patience):
            raise TimeoutError(errno.ETIMEDOUT, f"it accepted no data for {patience:g} seconds")
        with contextlib.suppress(BlockingIOError):
            rest = rest[os.write(handle, rest[: select.PIPE_BUF]) :]


@contextlib.contextmanager
def scratch(work: Path) -> Iterator[Path]:
    """Yield a private folder beside the unfinished file ``work``; removed at the end.

    Its name begins with that of ``work``, so that `piimg cleanup` finds both after a kill.
    """
    with tempfile.TemporaryDirectory(prefix=f"{work.name}.", suffix=".partial", dir=work.parent) as name:
        yield Path(name)


def scratches_of(work: Path) -> list[Path]:
    """The scratch folders of ``work`` that a killed run left."""
    return list(work.parent.glob(f"{glob.escape(work.name)}.*.partial"))


def open_plain(file: Path, flags: int) -> int:
    """Open a file by os.open's ``flags``, with mode 0600 if it is created. The caller closes the descriptor.

    It must be a regular file, not a link to one. The kind of file is checked on an O_PATH descriptor
    (open(2)), so that a pipe does not block, and no device is opened. Raises OSError.
    """
    while True:
        try:
            named = os.open(file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            with contextlib.suppress(FileExistsError):  # another program created it first: check that file
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


def hand_over(path: Path | int, folder: Path) -> None:
    """Under sudo, give ``path`` to the owner of ``folder``, so that root owns no files in a user's folder.

    ``path`` may be an open file, and ``folder`` a file that ``path`` belongs to.
    """
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=isinstance(path, int))


def give_to_caller(path: Path) -> None:
    """Under sudo, give ``path`` to the user who called it, wherever it is."""
    user, group = (os.environ.get(name, "") for name in ("SUDO_UID", "SUDO_GID"))
    if os.geteuid() == 0 and user.isdecimal() and group.isdecimal():
        os.chown(path, int(user), int(group), follow_symlinks=False)


def make_private(folder: Path, home: Path) -> None:
    """Create ``folder`` and its missing parents with mode 0700, for the owner of ``home``."""
    for level in (*reversed(folder.parents), folder):
        if not level.exists():
            level.mkdir(mode=0o700, exist_ok=True)
            hand_over(level, home)


def sync_file(path: Path) -> None:
    """Flush a file's data to its disk. Raises OSError when the disk fails or is full."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def flushing(path: Path) -> Iterator[None]:
    """Flush a file's data to its disk while the block writes it, and the rest at the end.

    It saves time: the programs that use the file next, e2fsprogs and loop devices, flush it first.
    Raises OSError when the disk fails or is full.
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
    """Copy a file: with shared blocks (reflink) where the file system can, else as a sparse copy.

    Raises PiimgError when the disk is full.
    """
    try:
        # Not "wb": ext4 flushes a truncated file when it is closed, and waits for the disk.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with source.open("rb") as reader, os.fdopen(os.open(target, flags, 0o666), "r+b") as writer:
            if os.fstat(writer.fileno()).st_size:
                os.ftruncate(writer.fileno(), 0)
            try:
                fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
                return
            except OSError:
                pass  # different file systems, or no reflinks
            size = os.fstat(reader.fileno()).st_size
            os.ftruncate(writer.fileno(), size)
            copy_range(reader, writer, 0, 0, size)
    except OSError as error:
        raise PiimgError(
            f"cannot copy {source} to {target}: {error.strerror}", "free some space, or choose another folder"
        ) from error


def copy_range(source: BinaryIO, target: BinaryIO, start: int, to: int, size: int) -> None:
    """Copy ``size`` bytes from ``start`` of one open file to ``to`` of another, without holes.

    Where the source has a hole, the target is not changed. Raises OSError.
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
    """Copy up to ``size`` bytes between two open files; return the number of bytes."""
    size = min(_COPY_BLOCK, size)
    try:
        return os.copy_file_range(source, target, size, start, to)
    except OSError as error:
        # Not all file systems support it, and not between two file systems.
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


class Busy(PiimgError):
    """Another program has the lock."""


@contextlib.contextmanager
def locked_after_waiting(
    path: Path, waits: Callable[[], None], stop: threading.Event | None = None, *, shared: bool = False
) -> Iterator[None]:
    """Lock the file ``path``, as ``locked`` does. If it is locked, call ``waits`` once, and wait.

    ``stop``, which any thread may set, ends the waiting with Interrupted.
    """
    stop = stop or threading.Event()
    with contextlib.ExitStack() as stack:
        for attempt in itertools.count():
            try:
                stack.enter_context(locked(path, f"{path} is locked", shared=shared))
                break
            except Busy:
                if not attempt:
                    waits()
                if stop.wait(_POLL):
                    raise Interrupted("stopped while waiting for another piimg", "run it again") from None
        yield


@contextlib.contextmanager
def locked(path: Path, busy: str, *, shared: bool = False) -> Iterator[None]:
    """Lock the file ``path`` (created if missing) exclusively, or ``shared``; Busy(``busy``) if it is locked.

    Under sudo the file belongs to the owner of its folder, who can then lock it without sudo. Raises
    PiimgError when it cannot be opened.
    """
    try:
        # O_NOFOLLOW: a link could create the file anywhere.
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
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise PiimgError(f"{path} is {kind_of(info.st_mode)}, not a regular file", "remove it")
        if info.st_nlink == 1:  # otherwise it may be another file, too
            hand_over(handle, path.parent)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(busy, "wait for the other run to end, or stop it") from None
        yield
    finally:
        os.close(handle)
