"""The part of the cache that is about dressing: dressed bases, packages, and downloads of layers.

dressed/KEY.img     a dressed base, sparse, read-only; KEY says what it is made of (request.py)
dressed/KEY.json    its record; a dressed base is both files
dressed/KEY.known   its index for builds (image/base_index.py)
dressed/KEY.log     what dpkg and the build scripts printed when it was last made, also after a failure
dressed/KEY.lock    locked by the run that makes it, and shared by each run that uses it
apt/KEY/            apt's package lists, for the sources of one base image
apt/archives/       downloaded packages
files/SHA256        downloads of layers
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from imagebuilder.base.cache import Cache
from imagebuilder.base.space import writing
from imagebuilder.events import Message, Reporter
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.software import Installed
from imagebuilder.system import files

_MAKING = "another piimg is making the same dressed base"
_IN_USE = "another piimg is making or using the same dressed base"
_DOWNLOADING = "another piimg is downloading packages"

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Dressed:
    """The record of a dressed base. ``digest`` and ``size`` (bytes) are of the image.

    ``base`` is the digest of the base image; ``requested`` are the packages that were asked for, ``scripts``
    the sha256 of the build scripts, ``packages`` all that are installed, ``accounts`` the numbers of new
    accounts.
    ``modified`` is the image's mtime in nanoseconds.
    """

    digest: Digest
    size: int
    modified: int
    base: Digest
    requested: tuple[str, ...]
    scripts: tuple[str, ...]
    packages: tuple[Installed, ...]
    accounts: dict[str, int]


_RECORD = TypeAdapter(Dressed)


@dataclass(frozen=True)
class Store:
    """The files about dressing in ``cache``."""

    cache: Cache

    @property
    def folder(self) -> Path:
        """The folder of the dressed bases."""
        return self.cache.dressed

    @property
    def apt(self) -> Path:
        """The folder of apt's files."""
        return self.cache.apt

    @property
    def apt_lock(self) -> Path:
        """Locked by the run that uses apt's files."""
        return self.apt / "lock"

    @property
    def archives(self) -> Path:
        """The folder of downloaded packages."""
        return self.apt / "archives"

    def image(self, key: str) -> Path:
        """The dressed base ``key``."""
        return self.folder / f"{key}.img"

    def index(self, key: str) -> Path:
        """Its index for builds."""
        return self.folder / f"{key}.known"

    def log(self, key: str) -> Path:
        """What was printed when it was last made."""
        return self.folder / f"{key}.log"

    def download(self, sha256: str) -> Path:
        """A download of a layer."""
        return self.cache.layer_downloads / sha256

    def _record(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _lock(self, key: str) -> Path:
        return self.folder / f"{key}.lock"

    def find(self, key: str) -> Dressed | None:
        """The record of the dressed base ``key``; None if it is not complete or was changed."""
        try:
            record = _RECORD.validate_json(read_regular(self._record(key), LARGE))
            state = self.image(key).stat()
        except (OSError, ValidationError):
            return None
        return record if (state.st_size, state.st_mtime_ns) == (record.size, record.modified) else None

    def keep(self, key: str, record: Dressed) -> None:
        """Store the record of a dressed base, whose image has its name already."""
        files.write_json(self._record(key), asdict(record))

    def clear(self, key: str) -> None:
        """Remove the dressed base ``key``, its record first."""
        for path in (self._record(key), self.image(key), self.index(key)):
            path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        with writing(f"use the cache {self.cache.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            files.hand_over(self.folder, self.cache.folder)

    @contextlib.contextmanager
    def making(self, key: str, reporter: Reporter, stop: threading.Event) -> Iterator[None]:
        """Lock the dressed base ``key`` while the block makes it; waits for runs that make or use it.

        Raises Interrupted when ``stop`` is set meanwhile, as ``using`` and ``downloading`` do.
        """
        self._make_folder()
        with files.locked_after_waiting(self._lock(key), _waits(reporter, _IN_USE), stop):
            for left in self.folder.glob(f".{key}.*.partial"):  # of a run that was killed
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()
            yield

    @contextlib.contextmanager
    def using(self, key: str, reporter: Reporter, stop: threading.Event) -> Iterator[None]:
        """Lock the dressed base ``key`` against pruning while the block runs; waits until it is made."""
        self._make_folder()
        with files.locked_after_waiting(self._lock(key), _waits(reporter, _MAKING), stop, shared=True):
            yield

    @contextlib.contextmanager
    def downloading(self, reporter: Reporter, stop: threading.Event) -> Iterator[None]:
        """Lock apt's files while the block runs; waits for another run that uses them."""
        with writing("use the cache of packages"):
            (self.archives / "partial").mkdir(parents=True, exist_ok=True)
            files.hand_over(self.apt, self.cache.folder)
        with files.locked_after_waiting(self.apt_lock, _waits(reporter, _DOWNLOADING), stop):
            yield

    def bases(self) -> dict[str, str]:
        """The digest of the base image that each dressed base was made from, by the digest of the dressed."""
        found = (self.find(key) for key in self._keys())
        return {record.digest: record.base for record in found if record}

    def prune(self, needed: frozenset[str]) -> list[int]:
        """Remove packages, and the downloads and dressed bases whose digests (sha256) are not ``needed``.

        What another run uses stays. Returns the bytes of disk that each removed file used.
        """
        removed = [_removed(path) for path in _in(self.cache.layer_downloads) if path.name not in needed]
        if self.apt.is_dir():
            with contextlib.suppress(files.Busy), files.locked(self.apt_lock, "in use"):
                removed += [_removed(path) for path in _in(self.apt) if path != self.apt_lock]
        for key in self._keys():
            record = self.find(key)
            if record is None or record.digest not in needed:
                removed += self._forget(key)
        return removed

    def _keys(self) -> list[str]:
        """The names of all dressed bases, complete or not."""
        names = (path.name.removeprefix(".") for path in self.folder.glob("*"))
        return sorted({name.partition(".")[0] for name in names})

    def _forget(self, key: str) -> list[int]:
        """Remove all of the dressed base ``key`` but its lock, for which another run may wait."""
        try:
            with files.locked(self._lock(key), "in use"):
                paths = [self._record(key), *self.folder.glob(f"{key}.*"), *self.folder.glob(f".{key}.*")]
                kept = self._lock(key)
                return [_removed(path) for path in dict.fromkeys(paths) if path != kept and path.exists()]
        except files.Busy:
            return []


def _waits(reporter: Reporter, why: str) -> Callable[[], None]:
    """Reports what is waited for."""
    return partial(reporter.emit, Message("info", f"waiting: {why}"))


def _in(folder: Path) -> Iterator[Path]:
    """All files below ``folder``; links are not followed."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _removed(path: Path) -> int:
    """Remove a file or a folder; the bytes of disk that it used itself."""
    taken = path.lstat().st_blocks * 512
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return taken
