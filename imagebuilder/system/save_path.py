"""Resolve the path of a file to save, component by component, on open descriptors.

A path can change between a check and its use. So the folder stays open, the existing file stays open by an
O_PATH descriptor (open(2)), and links are resolved here, not by the kernel: as with fs.protected_symlinks
(proc(5)), no link of another user is followed in a folder that others may write to.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.reading import kind_of

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LINKS = 40  # the kernel's limit: path_resolution(7)
_NAMES = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class SavePlace:
    """A resolved path: ``folder`` is a descriptor of the folder, ``name`` the last component in it.

    ``handle`` is an O_PATH descriptor of the existing file, and ``found`` its status; both are None when
    there is no file. ``own`` is the number of the process's own descriptor if the path refers to one
    (/dev/stdout).
    """

    folder: int
    name: str
    handle: int | None = None
    found: os.stat_result | None = None
    own: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether data is written to it directly, and it is not replaced."""
        return self.own is not None or (self.found is not None and not stat.S_ISREG(self.found.st_mode))

    @property
    def keeps_owner(self) -> bool:
        """Whether a new file gets the owner of the existing one."""
        return self.found is not None and (
            not _others_may_write(os.fstat(self.folder)) or _is_trusted(os.fstat(self.folder), self.found)
        )

    def status_of(self, name: str) -> os.stat_result | None:
        """The current status of ``name`` in the folder, without following a link; None when it is missing."""
        try:
            return os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def path_of(self, name: str, target: Path) -> Path:
        """A path to another ``name`` in the folder, with the parent of ``target`` if that is the folder."""
        with contextlib.suppress(OSError):
            if os.path.samestat(target.parent.stat(), os.fstat(self.folder)):
                return target.parent / name
        return Path(f"/proc/self/fd/{self.folder}").readlink() / name


@contextlib.contextmanager
def found(target: Path) -> Iterator[SavePlace]:
    """Yield the place that ``target`` resolves to. Raises OSError where nothing may be saved.

    That is: a folder, a block device, another program's open file, or another user's link or file in a folder
    that others may write to.
    """
    with contextlib.ExitStack() as stack:
        try:
            place = _walk(target, stack)
            _check(place)
        except OSError as error:
            error.filename = str(target)  # not only a component
            raise
        yield place


def _walk(target: Path, stack: contextlib.ExitStack) -> SavePlace:
    """Resolve ``target`` component by component; all descriptors are closed with ``stack``."""

    def opened(name: str, flags: int, folder: int | None = None) -> int:
        handle = os.open(name, flags, dir_fd=folder)
        stack.callback(os.close, handle)
        return handle

    folder = opened("/" if target.is_absolute() else ".", _FOLDER)
    names, links = _names(str(target)), 0
    while names:
        name = names.pop(0)
        if name == "..":
            folder = opened(name, _FOLDER, folder)
            continue
        try:
            handle = opened(name, _NAMES, folder)
        except FileNotFoundError:
            if names:
                raise OSError(errno.ENOENT, f"there is no folder {name}") from None
            if os.fstat(folder).st_dev == _proc():
                raise OSError(errno.ENOENT, f"piimg did not inherit an open descriptor {name}") from None
            return SavePlace(folder, name)
        status = os.fstat(handle)
        if stat.S_ISLNK(status.st_mode) and status.st_dev == _proc():
            # The text of these links is not a path: only the kernel can follow them.
            own = _own(folder, name)
            handle = opened(name, os.O_PATH | os.O_CLOEXEC, folder)
            status = os.fstat(handle)
            if own is None and stat.S_ISREG(status.st_mode):
                raise OSError(errno.EACCES, "it is a file that another program has open")
            if not names:
                return SavePlace(folder, name, handle, status, own)
        elif stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, "its links form a loop")
            _may_follow(name, os.fstat(folder), status)
            text = os.readlink("", dir_fd=handle)
            names = _names(text) + names
            folder = opened("/", _FOLDER) if text.startswith("/") else folder
            continue
        elif not names:
            return SavePlace(folder, name, handle, status)
        if not stat.S_ISDIR(status.st_mode):
            raise OSError(errno.ENOTDIR, f"{name} in its path is {kind_of(status.st_mode)}, not a folder")
        folder = handle
    raise OSError(errno.EISDIR, "it is a folder")


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _proc() -> int:
    """The device number of procfs, whose links only the kernel can follow."""
    return Path("/proc/self").stat().st_dev  # not /proc, which exists even when procfs is not mounted


def _own(folder: int, name: str) -> int | None:
    """The number of the process's own descriptor, if ``name`` in ``folder`` is one.

    Raises OSError for a descriptor that piimg itself opened, because such a number has no fixed meaning. It
    is recognized by not being inheritable, which inherited descriptors are (PEP 446).
    """
    if not (os.path.samestat(os.fstat(folder), Path("/proc/self/fd").stat()) and name.isdecimal()):
        return None
    if not os.get_inheritable(int(name)):
        raise OSError(errno.EBADF, f"piimg did not inherit an open descriptor {name}")
    return int(name)


def _others_may_write(folder: os.stat_result) -> bool:
    return bool(folder.st_mode & _OTHERS)


def _is_trusted(folder: os.stat_result, its: os.stat_result) -> bool:
    """Whether a file in ``folder`` belongs to this user or to the folder's owner."""
    return its.st_uid in (os.geteuid(), folder.st_uid)


def _may_follow(name: str, folder: os.stat_result, link: os.stat_result) -> None:
    if _others_may_write(folder) and not _is_trusted(folder, link):
        raise OSError(errno.EACCES, f"{name} is another user's link in a folder that others may write to")


def _check(place: SavePlace) -> None:
    """Raise OSError when the existing file may neither be replaced nor written to."""
    if place.found is None:
        return
    mode, folder = place.found.st_mode, os.fstat(place.folder)
    if stat.S_ISBLK(mode) or stat.S_ISDIR(mode) or (stat.S_ISSOCK(mode) and place.own is None):
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is {kind_of(mode)}")
    # The rules of fs.protected_regular and fs.protected_fifos: proc(5). In a shared folder without the sticky
    # bit any user may replace another user's file.
    guarded = stat.S_ISFIFO(mode) or folder.st_mode & stat.S_ISVTX
    if place.own is None and guarded and _others_may_write(folder) and not _is_trusted(folder, place.found):
        raise OSError(
            errno.EACCES, f"it is {kind_of(mode)} of another user in a folder that others may write to"
        )
