"""Where a path leads that something is to be saved at: decided on open descriptors, one name after another.

A path that was looked at may lead elsewhere when it is used. So the folder is held open, what is there is
held open by a descriptor that only names it (open(2), O_PATH), and links are read here rather than by the
kernel: none is followed out of a folder that others may write to, as with fs.protected_symlinks (proc(5)).
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
_LINKS = 40  # as the kernel's own limit: path_resolution(7)
_NAMES = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class SavePlace:
    """Where a path leads. ``folder`` is a descriptor of the folder, and the last name in it is ``name``.

    ``handle`` names what is there, whose status is ``found``; both are None when nothing is. ``own`` is the
    number of the descriptor of this process that the path names, as /dev/stdout does.
    """

    folder: int
    name: str
    handle: int | None = None
    found: os.stat_result | None = None
    own: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it is written into, and not replaced."""
        return self.own is not None or (self.found is not None and not stat.S_ISREG(self.found.st_mode))

    @property
    def keeps_owner(self) -> bool:
        """Whether a file in place of the one that is there goes to the owner of that one."""
        return self.found is not None and (
            not _others_may_write(os.fstat(self.folder)) or _is_trusted(os.fstat(self.folder), self.found)
        )

    def status_of(self, name: str) -> os.stat_result | None:
        """The status of what has ``name`` in the folder now, be it a link; None when nothing has."""
        try:
            return os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def path_of(self, name: str, target: Path) -> Path:
        """A path to another ``name`` in the folder; as ``target`` spells it, if no link leads elsewhere."""
        with contextlib.suppress(OSError):
            if os.path.samestat(target.parent.stat(), os.fstat(self.folder)):
                return target.parent / name
        return Path(f"/proc/self/fd/{self.folder}").readlink() / name


@contextlib.contextmanager
def found(target: Path) -> Iterator[SavePlace]:
    """Give the place that ``target`` leads to. Raises OSError where nothing may be saved.

    That is: a folder, a block device, another program's open file, a link or a file that somebody else put
    into a folder that others may write to.
    """
    with contextlib.ExitStack() as held:
        try:
            place = _walk(target, held)
            _check(place)
        except OSError as error:
            error.filename = str(target)  # and not a part of it
            raise
        yield place


def _walk(target: Path, held: contextlib.ExitStack) -> SavePlace:
    """Follow ``target`` name by name; the descriptors on the way are closed with ``held``."""

    def opened(name: str, flags: int, folder: int | None = None) -> int:
        handle = os.open(name, flags, dir_fd=folder)
        held.callback(os.close, handle)
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
                raise OSError(errno.ENOENT, f"piimg was not given an open descriptor {name}") from None
            return SavePlace(folder, name)
        status = os.fstat(handle)
        if stat.S_ISLNK(status.st_mode) and status.st_dev == _proc():
            # The text of these says what is open, and not where: the kernel follows them itself.
            own = _own(folder, name)
            handle = opened(name, os.O_PATH | os.O_CLOEXEC, folder)
            status = os.fstat(handle)
            if own is None and stat.S_ISREG(status.st_mode):
                raise OSError(errno.EACCES, "it is what another program has open")
            if not names:
                return SavePlace(folder, name, handle, status, own)
        elif stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, "its links go round in a circle")
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
    """The device number of procfs, which has links that are no text."""
    return Path("/proc/self").stat().st_dev  # and not /proc: it is there when nothing is mounted on it


def _own(folder: int, name: str) -> int | None:
    """The number of our own descriptor that ``name`` in ``folder`` is, if it is one.

    Raises OSError for one that was opened here: such a number may be that of anything at any time. What is
    opened here is not inheritable, and what was inherited is (PEP 446).
    """
    if not (os.path.samestat(os.fstat(folder), Path("/proc/self/fd").stat()) and name.isdecimal()):
        return None
    if not os.get_inheritable(int(name)):
        raise OSError(errno.EBADF, f"piimg was not given an open descriptor {name}")
    return int(name)


def _others_may_write(folder: os.stat_result) -> bool:
    return bool(folder.st_mode & _OTHERS)


def _is_trusted(folder: os.stat_result, its: os.stat_result) -> bool:
    """Whether what lies in ``folder`` is our own, or of the folder's owner."""
    return its.st_uid in (os.geteuid(), folder.st_uid)


def _may_follow(name: str, folder: os.stat_result, link: os.stat_result) -> None:
    if _others_may_write(folder) and not _is_trusted(folder, link):
        raise OSError(
            errno.EACCES, f"{name} is a link that somebody else put into a folder that others may write to"
        )


def _check(place: SavePlace) -> None:
    """Raise OSError when what is there may neither be replaced nor written into."""
    if place.found is None:
        return
    mode, folder = place.found.st_mode, os.fstat(place.folder)
    if stat.S_ISBLK(mode) or stat.S_ISDIR(mode) or (stat.S_ISSOCK(mode) and place.own is None):
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is {kind_of(mode)}")
    # As fs.protected_regular and fs.protected_fifos have it: proc(5). In a folder that is shared without the
    # sticky bit anybody may take another's file away, and work on it together.
    guarded = stat.S_ISFIFO(mode) or folder.st_mode & stat.S_ISVTX
    if place.own is None and guarded and _others_may_write(folder) and not _is_trusted(folder, place.found):
        raise OSError(
            errno.EACCES, f"it is {kind_of(mode)} of somebody else in a folder that others may write to"
        )
