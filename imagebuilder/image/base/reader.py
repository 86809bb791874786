"""Reading what a base image holds, without mounting it. It may be hostile: every answer is bounded.

Symbolic links are followed within the root partition only; nothing of this machine is reached by one.
"""

import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.ext4 import FileStatus
from imagebuilder.image.partitions import Slice
from imagebuilder.image.untrusted import Damaged

LIMIT = 256 << 10  # bytes; a configuration file is smaller
_FILES = 500  # in a folder whose files are looked into one by one
_LINKS = 8  # symbolic links followed at most
_LONGEST_LINK = 4096  # bytes (PATH_MAX)

_Answer = TypeVar("_Answer")


class UnreadableBase(PiimgError):
    """A file or folder of the base image is not what it must be: message and hint are for the user."""


@dataclass
class BaseReader:
    """The two partitions of the base image ``file``. What was asked once is kept."""

    file: Path
    boot: Slice
    root: Slice
    _stats: dict[str, FileStatus | None] = field(default_factory=dict)
    _names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _contents: dict[str, bytes] = field(default_factory=dict)

    def learn(self, paths: Iterable[str]) -> None:
        """Ask for several paths of the root partition in one run, which is quicker."""
        new = [path for path in dict.fromkeys(paths) if path not in self._stats and path.isprintable()]
        if new:
            found = self._asked(lambda: ext4.stat(self.file, self.root.start, new))
            self._stats |= {path: found.get(path) for path in new}

    def stat(self, path: str) -> FileStatus | None:
        """What stands at ``path`` of the root partition; a link at its end is not followed."""
        self.learn([path])
        return self._stats.get(path)

    def resolve(self, path: str) -> tuple[str, FileStatus] | None:
        """What ``path`` leads to, and where that is; None when there is nothing, or links lead in circles."""
        for _ in range(_LINKS):
            found = self.stat(path)
            if found is None or found.kind != "symlink":
                return None if found is None else (path, found)
            target = self.target(path)
            if not target or not target.isprintable():
                return None
            path = target
        return None

    def target(self, path: str) -> str:
        """The absolute path that the link ``path`` names; empty when it is no link."""
        found = self.stat(path)
        if found is None or found.kind != "symlink":
            return ""
        raw = found.target
        if not raw and found.size <= _LONGEST_LINK:
            raw = self._content(path, found.size)
        return posixpath.normpath(posixpath.join(posixpath.dirname(path), raw.decode("utf-8", "replace")))

    def read(self, path: str, limit: int = LIMIT) -> bytes | None:
        """The content of the file that ``path`` leads to; None when there is none.

        Raises UnreadableBase when it is not a file, or has more than ``limit`` bytes.
        """
        led = self.resolve(path)
        if led is None:
            return None
        place, found = led
        if found.kind != "regular":
            raise UnreadableBase(f"{path} is not a file but a {found.kind}", "is this base image whole?")
        if found.size > limit:
            raise UnreadableBase(f"{path} has more than {limit >> 10} KiB", "is this base image whole?")
        return self._content(place, found.size)

    def learn_names(self, folders: Iterable[str]) -> None:
        """Ask for the names in several folders in one run."""
        places = {led[0] for one in folders if (led := self.resolve(one)) and led[1].kind == "directory"}
        new = sorted(places - self._names.keys())
        if new:
            found = self._asked(lambda: ext4.names(self.file, self.root.start, new))
            self._names |= {place: tuple(sorted(filter(str.isprintable, found[place]))) for place in new}

    def names(self, folder: str) -> tuple[str, ...]:
        """The names in the folder that ``folder`` leads to; none when there is no such folder."""
        self.learn_names([folder])
        led = self.resolve(folder)
        return self._names.get(led[0], ()) if led else ()

    def files(self, folder: str) -> tuple[str, ...]:
        """The paths of all that is in ``folder``. Raises UnreadableBase when there are too many."""
        names = self.names(folder)
        if len(names) > _FILES:
            raise UnreadableBase(f"{folder} holds more than {_FILES} files", "is this base image whole?")
        paths = tuple(f"{folder}/{name}" for name in names)
        self.learn(paths)
        return paths

    def boot_names(self) -> tuple[str, ...]:
        """The names at the top of the boot partition, as they are written there."""
        if "" not in self._names:
            names = self._asked(lambda: fat.names(self.file, self.boot.start))
            self._names[""] = tuple(name for name in names if name.isprintable())
        return self._names[""]

    def boot_read(self, path: str, limit: int = LIMIT) -> bytes | None:
        """The content of ``path`` of the boot partition; None when there is none. Raises UnreadableBase."""
        return self._asked(lambda: fat.read_file(self.file, self.boot.start, path, limit))

    def _content(self, path: str, size: int) -> bytes:
        if path not in self._contents:
            read = self._asked(lambda: dict(ext4.read(self.file, self.root.start, {path: size})))
            self._contents[path] = read.get(path, b"")
        return self._contents[path]

    @staticmethod
    def _asked(question: Callable[[], _Answer]) -> _Answer:
        try:
            return question()
        except Damaged as error:
            raise UnreadableBase(error.message, "is this base image whole?") from error
