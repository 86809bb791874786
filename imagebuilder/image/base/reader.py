"""Reader of a base image that is not trusted, without mounting it; every read is bounded.

Symbolic links are followed within the root partition only, never to files of this machine.
"""

import contextlib
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.ext4 import FileStatus
from imagebuilder.image.partitions import Slice
from imagebuilder.image.untrusted import DAMAGED_BASE, Damaged

LIMIT = 256 << 10  # bytes; a configuration file is smaller
_FILES = 500  # in a folder whose files are examined
_LINKS = 8  # symbolic links followed at most
_LONGEST_LINK = 4096  # bytes (PATH_MAX)

_Answer = TypeVar("_Answer")


class UnreadableBase(PiimgError):
    """A file or folder of the base image is not of the expected kind or size."""


@dataclass
class BaseReader:
    """Cached reader of the two partitions of the base image ``file``, which the user calls ``name``."""

    file: Path
    boot: Slice
    root: Slice
    name: str
    _stats: dict[str, FileStatus | None] = field(default_factory=dict)
    _names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _contents: dict[str, bytes] = field(default_factory=dict)

    def learn(self, paths: Iterable[str]) -> None:
        """Read the status of several paths of the root partition in one run, which is faster."""
        new = [path for path in dict.fromkeys(paths) if path not in self._stats and path.isprintable()]
        if new:
            stats = self._read_bounded(lambda: ext4.stat(self.file, self.root.start, new))
            self._stats |= {path: stats.get(path) for path in new}

    def learn_all(self, paths: Iterable[str]) -> None:
        """Read the status of several paths, and the contents and names of those that are no links, in a few
        runs. What cannot be read is left to the method that needs it."""
        with contextlib.suppress(UnreadableBase):
            self.learn(paths)
            found = {path: status for path in paths if (status := self._stats.get(path))}
            self.learn_names(path for path, status in found.items() if status.kind == "directory")
            sizes = {
                path: status.size
                for path, status in found.items()
                if status.kind == "regular" and status.size <= LIMIT
            }
            self._contents |= self._read_bounded(lambda: dict(ext4.read(self.file, self.root.start, sizes)))

    def stat(self, path: str) -> FileStatus | None:
        """The status of ``path`` of the root partition, or None; a link at its end is not followed."""
        self.learn([path])
        return self._stats.get(path)

    def resolve(self, path: str) -> tuple[str, FileStatus] | None:
        """The path and status of the target of ``path``; None if it is missing or links form a loop."""
        for _ in range(_LINKS):
            status = self.stat(path)
            if status is None or status.kind != "symlink":
                return None if status is None else (path, status)
            target = self.target(path)
            if not target or not target.isprintable():
                return None
            path = target
        return None

    def target(self, path: str) -> str:
        """The absolute target of the link ``path``; empty if it is not a link."""
        status = self.stat(path)
        if status is None or status.kind != "symlink":
            return ""
        raw = status.target
        if not raw and status.size <= _LONGEST_LINK:
            raw = self._content(path, status.size)
        return posixpath.normpath(posixpath.join(posixpath.dirname(path), raw.decode("utf-8", "replace")))

    def read(self, path: str, limit: int = LIMIT) -> bytes | None:
        """The content of the file at ``path``, links followed; None if it does not exist.

        Raises UnreadableBase when it is not a file, or has more than ``limit`` bytes.
        """
        resolved = self.resolve(path)
        if resolved is None:
            return None
        place, status = resolved
        if status.kind != "regular":
            raise UnreadableBase(f"{path} is not a file but a {status.kind}", DAMAGED_BASE)
        if status.size > limit:
            raise UnreadableBase(f"{path} has more than {limit >> 10} KiB", DAMAGED_BASE)
        return self._content(place, status.size)

    def learn_names(self, folders: Iterable[str]) -> None:
        """Read the names in several folders in one run."""
        resolved = [self.resolve(folder) for folder in folders]
        places = {place for place, status in filter(None, resolved) if status.kind == "directory"}
        new = sorted(places - self._names.keys())
        if new:
            names = self._read_bounded(lambda: ext4.names(self.file, self.root.start, new))
            self._names |= {place: tuple(sorted(filter(str.isprintable, names[place]))) for place in new}

    def names(self, folder: str) -> tuple[str, ...]:
        """The names in ``folder``, links followed; empty if there is no such folder."""
        self.learn_names([folder])
        resolved = self.resolve(folder)
        return self._names.get(resolved[0], ()) if resolved else ()

    def files(self, folder: str) -> tuple[str, ...]:
        """The paths of all entries in ``folder``. Raises UnreadableBase if there are too many."""
        names = self.names(folder)
        if len(names) > _FILES:
            raise UnreadableBase(f"{folder} contains more than {_FILES} files", DAMAGED_BASE)
        paths = tuple(f"{folder}/{name}" for name in names)
        self.learn(paths)
        return paths

    def boot_names(self) -> tuple[str, ...]:
        """The names in the root folder of the boot partition, in their own case."""
        if "" not in self._names:
            names = self._read_bounded(lambda: fat.names(self.file, self.boot.start))
            self._names[""] = tuple(name for name in names if name.isprintable())
        return self._names[""]

    def boot_read(self, path: str, limit: int = LIMIT) -> bytes | None:
        """The content of ``path`` of the boot partition; None if it does not exist. Raises UnreadableBase."""
        return self._read_bounded(lambda: fat.read_file(self.file, self.boot.start, path, limit))

    def _content(self, path: str, size: int) -> bytes:
        if path not in self._contents:
            read = self._read_bounded(lambda: dict(ext4.read(self.file, self.root.start, {path: size})))
            self._contents[path] = read.get(path, b"")
        return self._contents[path]

    @staticmethod
    def _read_bounded(read: Callable[[], _Answer]) -> _Answer:
        try:
            return read()
        except Damaged as error:
            raise UnreadableBase(error.problem, DAMAGED_BASE) from error
