"""The file trees inside an image, for the injection of entries.

``RootTree`` is a mounted root partition. The kernel resolves every path inside that mount (openat2(2),
RESOLVE_IN_ROOT), so no symbolic link of the base image can redirect a write out of it. ``BootTree`` is the
FAT partition, read and written by mtools at its offset, without a mount.
"""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imagebuilder.errors import PiimgError
from imagebuilder.image import fat
from imagebuilder.image.untrusted import DAMAGED_BASE, Damaged
from imagebuilder.model import Entry, Kind, Partition
from imagebuilder.system import files
from imagebuilder.system.process import ToolError

READ_LIMIT = 16 << 20
"""Limit of a file to which lines are added, in bytes; its lines use several times as much memory."""

_WRITE_SECONDS = 300.0  # for one run of mtools; a slow disk takes long for a large file


class Tree(Protocol):
    """The operations on a partition that injection needs. ``mtime`` is in seconds since the epoch."""

    def read(self, path: str) -> bytes | None:
        """The content of a file, or None if it does not exist."""

    def write_file(self, entry: Entry, content: bytes, mtime: int) -> None: ...

    def make_folder(self, entry: Entry, mtime: int) -> None: ...

    def make_link(self, entry: Entry, mtime: int) -> None: ...

    def rewrite(self, path: str, content: bytes, mtime: int) -> None:
        """Replace the content of an existing file, keeping its mode and owner."""

    def remove(self, path: str) -> bool:
        """Remove a file or a whole folder; False if it did not exist."""

    def stamp(self, path: str, mtime: int) -> None:
        """Set the modification time of a folder, if it exists."""


_SYS_OPENAT2 = 437  # the same on every architecture of Linux (asm-generic/unistd.h)
_RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
_RESOLVE_IN_ROOT = 0x10
_libc = ctypes.CDLL(None, use_errno=True)


_RESOLVE_TRIES = 1000


def open_inside(root: int, path: str, flags: int) -> int:
    """Open ``path`` as if the open folder ``root`` were ``/``: openat2(2) with RESOLVE_IN_ROOT.

    The kernel gives EAGAIN for a path with ``..`` when any folder of the machine was renamed, or anything
    mounted, at that moment: it cannot be sure then that the path stayed inside. Such a call is repeated, as
    openat2(2) says. Raises OSError.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    number = errno.EAGAIN
    for _ in range(_RESOLVE_TRIES):
        handle = _libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), how, len(how))
        if handle >= 0:
            return int(handle)
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)


class RootTree:
    """A mounted root partition; create it with ``root_tree``.

    ``root`` and ``base`` are open folders: the partition, and that of the base image, from which files that
    were not written are read. ``written`` and ``removed`` are real paths, without symbolic links, as bytes
    from the top.
    """

    def __init__(self, root: int, base: int) -> None:
        self._root = root
        self._base = base
        self._top = str(Path(f"/proc/self/fd/{root}").readlink())
        self.written: set[bytes] = set()
        self.removed: set[bytes] = set()

    def read(self, path: str) -> bytes | None:
        try:
            with self._opened(path, os.O_RDONLY | os.O_NONBLOCK) as handle:
                real = self._real(handle)
                if real in self.written:
                    return _read_regular(handle, path)
        except FileNotFoundError:
            return None
        handle = open_inside(self._base, os.fsdecode(real), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return _read_regular(handle, path)
        finally:
            os.close(handle)

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; empty if there is no such folder."""
        try:
            with self._opened(folder, os.O_RDONLY | os.O_DIRECTORY) as handle:
                return sorted(entry.name for entry in os.scandir(handle))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write_file(self, entry: Entry, content: bytes, mtime: int) -> None:
        with self._parent(entry.path) as (parent, name):
            self._refuse_folder(parent, name, entry.path)
            temporary = f".{name[:200]}.piimg"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o600, dir_fd=parent)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fchown(handle, entry.uid, entry.gid)
                os.fchmod(handle, entry.mode)
                os.utime(handle, (mtime, mtime))
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            self.written.add(self._real(parent, name))

    def make_folder(self, entry: Entry, mtime: int) -> None:
        with self._parent(entry.path) as (parent, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        with self._opened(entry.path, os.O_RDONLY | os.O_DIRECTORY) as handle:
            os.fchown(handle, entry.uid, entry.gid)
            os.fchmod(handle, entry.mode)
            os.utime(handle, (mtime, mtime))
            self.written.add(self._real(handle))

    def make_link(self, entry: Entry, mtime: int) -> None:
        with self._parent(entry.path) as (parent, name):
            self._refuse_folder(parent, name, entry.path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            os.symlink(entry.target, name, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.utime(name, (mtime, mtime), dir_fd=parent, follow_symlinks=False)
            self.written.add(self._real(parent, name))

    def rewrite(self, path: str, content: bytes, mtime: int) -> None:
        # A new file in its place: other hard links to it keep the content of the base image.
        attributes: dict[str, bytes] = {}
        with self._opened(path, os.O_RDONLY | os.O_NONBLOCK) as old:
            real, info = os.fsdecode(self._real(old)), os.fstat(old)
            with contextlib.suppress(OSError):
                attributes = {name: os.getxattr(old, name) for name in os.listxattr(old)}
        # The old one is closed now: FUSE keeps a file that is open under another name, .fuse_hidden….
        mode, owner = stat.S_IMODE(info.st_mode), (info.st_uid, info.st_gid)
        entry = Entry(Partition.ROOT, real, Kind.FILE, "", mode=mode, uid=owner[0], gid=owner[1])
        self.write_file(entry, content, mtime)
        with self._opened(real, os.O_RDONLY) as new, contextlib.suppress(OSError):
            for name, value in attributes.items():
                os.setxattr(new, name, value)

    def remove(self, path: str) -> bool:
        try:
            with self._parent(path, make=False) as (parent, name):
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
                real = self._real(parent, name)
                self.removed.add(real)
                self.written -= {path for path in self.written if (path + b"/").startswith(real + b"/")}
                if stat.S_ISDIR(info.st_mode):
                    shutil.rmtree(name, dir_fd=parent)
                else:
                    os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return False
        return True

    def stamp(self, path: str, mtime: int) -> None:
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._opened(path, os.O_RDONLY | os.O_DIRECTORY) as handle,
        ):
            os.utime(handle, (mtime, mtime))

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        handle = open_inside(self._root, path, flags)
        try:
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _parent(self, path: str, make: bool = True) -> Iterator[tuple[int, str]]:
        parent, _, name = path.rpartition("/")
        if make:
            self._make_folders(parent or "/")
        with self._opened(parent or "/", os.O_RDONLY | os.O_DIRECTORY) as handle:
            yield handle, name

    def _make_folders(self, path: str) -> None:
        """Create ``path`` and its parents if missing, owned by root with mode 0755."""
        try:
            with self._opened(path, os.O_PATH | os.O_DIRECTORY):
                return
        except FileNotFoundError:
            pass
        with self._parent(path) as (parent, name):
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError:
                raise PiimgError(f"{path} in the image is a broken link", DAMAGED_BASE) from None
            os.chown(name, 0, 0, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, 0o755, dir_fd=parent)
            self.written.add(self._real(parent, name))

    def _real(self, folder: int, name: str = "") -> bytes:
        """The real path of the open file or folder, or of ``name`` in the open folder."""
        found = str(Path(f"/proc/self/fd/{folder}").readlink()).removeprefix(self._top)
        return os.fsencode((f"{found}/{name}" if name else found) or "/")

    @staticmethod
    def _refuse_folder(parent: int, name: str, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise PiimgError(
                    f"{path} is a folder in the base image", "list it under remove, or correct the path"
                )


@contextlib.contextmanager
def root_tree(mount_point: Path, base: Path) -> Iterator[RootTree]:
    """The tree of a root partition mounted at ``mount_point``; synced when the block ends.

    ``base`` is the mount point of the root partition of the base image.
    """
    with contextlib.ExitStack() as stack:
        handles = []
        for point in (mount_point, base):
            handles.append(os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, handles[-1])
        yield RootTree(*handles)
        _syncfs(handles[0])


def _syncfs(handle: int) -> None:
    if _libc.syncfs(handle) != 0:
        number = ctypes.get_errno()
        if number != errno.ENOSYS:
            raise OSError(number, os.strerror(number))


def _read_regular(handle: int, path: str) -> bytes:
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        raise PiimgError(f"{path} in the image is not a regular file", DAMAGED_BASE)
    if info.st_size > READ_LIMIT:
        raise PiimgError(f"{path} in the image is larger than {READ_LIMIT >> 20} MiB", DAMAGED_BASE)
    return os.pread(handle, info.st_size, 0)


FAT_EPOCH = 315532800
"""1980-01-01 in seconds since 1970: the earliest time of FAT; mtools turns 1970 into 2098."""


@dataclass(frozen=True)
class BootTree:
    """The FAT partition at ``offset`` bytes of ``image``, by mtools. FAT stores neither modes nor owners.

    ``written`` are the paths of files that were written, ``removed`` those of what was removed.
    """

    image: Path
    offset: int
    written: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    new_folders: set[str] = field(default_factory=set)

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """The content of a file, at most ``limit`` bytes; None if it does not exist."""
        try:
            return fat.read_file(self.image, self.offset, path, limit)
        except Damaged as error:
            raise PiimgError(error.message, DAMAGED_BASE) from error

    def write_file(self, entry: Entry, content: bytes, mtime: int) -> None:
        self._make_folders(entry.path.rpartition("/")[0], mtime)
        self._put(entry.path, content, mtime)

    def make_folder(self, entry: Entry, mtime: int) -> None:
        self._make_folders(entry.path, mtime)

    def make_link(self, entry: Entry, mtime: int) -> None:
        raise PiimgError(f"{entry.path}: FAT has no symbolic links", "put the file itself into boot/")

    def rewrite(self, path: str, content: bytes, mtime: int) -> None:
        self._put(path, content, mtime)

    def remove(self, path: str) -> bool:
        try:
            self._mtools("mdeltree", fat.pattern(path))
        except ToolError as error:
            if b"not found" in error.stderr:
                return False
            raise _damaged(error) from error
        self.removed.add(path)
        return True

    def _put(self, path: str, content: bytes, mtime: int) -> None:
        with files.scratch(self.image) as folder:
            file = folder / "file"
            file.touch(0o600)
            file.write_bytes(content)
            os.utime(file, (max(mtime, FAT_EPOCH),) * 2)
            try:
                self._mtools("mcopy", "-o", "-m", file, _new_name(path), mtime=mtime)
            except ToolError as error:
                raise _damaged(error) from error
        self.written.add(path)

    def stamp(self, path: str, mtime: int) -> None:
        pass  # on FAT a folder keeps its time of creation

    def _make_folders(self, path: str, mtime: int) -> None:
        for end in [m.start() for m in re.finditer("/", path[1:] + "/")] if path else []:
            folder = path[: end + 1]
            # mmd of mtools 4.0.32 fails without a word where the folder exists, in any spelling.
            if fat.is_folder(self.image, self.offset, folder):
                continue
            try:
                self._mtools("mmd", "-D", "s", _new_name(folder), mtime=mtime)
            except ToolError as error:
                raise _damaged(error) from error
            self.new_folders.add(folder)

    def _mtools(self, program: str, *words: str | Path, mtime: int | None = None) -> None:
        argv = [program, "-i", fat.place(self.offset), *words]
        mtime = None if mtime is None else max(mtime, FAT_EPOCH)
        fat.mtools(argv, self.image, mtime=mtime, seconds=_WRITE_SECONDS, write=True)


def _new_name(path: str) -> str:
    """A new path for mtools, which reads only its folder as a pattern."""
    folder, _, name = path.rpartition("/")
    return f"{fat.pattern(folder)}/{name}"


def _damaged(error: ToolError) -> PiimgError:
    if b"Disk full" in error.stderr:
        return PiimgError("the boot partition is full", "move files from boot/ to root/ in the layers")
    return PiimgError(f"cannot use the boot partition: {error.message}", DAMAGED_BASE)
