"""The cache: base images, unpacked once and named by the digest of their content, and related files.

    bases/DIGEST.img           the image, sparse, read-only; DIGEST is its sha256
    bases/DIGEST-FETCHED.json  its record; FETCHED is the start of the sha256 as it was fetched
    bases/DIGEST.known         the index of the image for builds (image/base_index.py); recreated if missing
    downloads/KEY.partial      an unfinished download, and KEY.json, the record to resume it
    boot/packages-KEY/         the unpacked packages of the companion kernel (boot/kernel.py)
    boot/initramfs-KEY         its initramfs
    boot/run-*/                the folder of a running boot; after a kill, `piimg cleanup` removes it
    in-use/DIGEST.lock         locked, shared (flock(2)), by each run that uses the base image
    in-use/boot.lock           the same, by each run that uses the companion kernel
    checksums.json             the sha256 of local files that did not change (base/notes.py)
    prepared/KEY.json          a folder with prepared nodes, which need base images (base/notes.py)
    dressed/, apt/, files/     packages and downloads for layers (dressing/store.py)
    NAME/                      files of the project's tests, for each NAME of ``OF_TESTS``

A base image in the cache is the first two together; one without the other is ignored. Every path in the cache
comes from a method of ``Cache``, and ``prune`` handles them all.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from imagebuilder.base.catalogue import Trust
from imagebuilder.base.removal import NOT_YOURS, remove, remove_whole, sizes
from imagebuilder.base.space import writing
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.reading import SMALL, open_regular, read_regular
from imagebuilder.system import files

_CHUNK = 4 << 20  # bytes
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KERNEL = "boot"  # the name of the companion kernel's lock

OF_TESTS = ("bare", "debian-base", "guest", "mirrors", "specimens")
"""Folders of the project's tests and their scripts in the cache, for files that take minutes to make."""


@dataclass(frozen=True)
class Record:
    """What is known about a base image in the cache.

    ``digest`` and ``size`` (bytes) are of the unpacked image, ``fetched`` is the sha256 of the file as it
    was fetched. ``signer`` is the fingerprint of the key that signed it, empty if none did.
    ``modified`` is the image's mtime in nanoseconds: a file with another one is hashed again.
    """

    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: int
    fetched: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    fetched_size: int
    name: str
    source: str
    date: str
    trust: Trust
    signer: str
    modified: int


_RECORD = TypeAdapter(Record)


COMPANION_KERNEL = "companion kernel"
"""The name of the kernel of `piimg boot` in the output of `piimg fetch --prune`."""


@dataclass(frozen=True)
class Pruned:
    """The result of a prune: the number of files removed, and the bytes of disk freed.

    ``kept`` are the names of base images that stay because they are in use, and ``COMPANION_KERNEL`` if the
    kernel is.
    """

    files: int
    freed: int
    kept: tuple[str, ...] = ()


def default_folder() -> Path:
    """$PIIMG_CACHE, else piimg in $XDG_CACHE_HOME, else ~/.cache/piimg."""
    if own := os.environ.get("PIIMG_CACHE"):
        return Path(own)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "piimg"
    return Path.home() / ".cache" / "piimg"


def sha256_of(path: Path) -> str:
    """The sha256 of a regular file's content, hex. Raises OSError."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Cache:
    """The cache in ``folder``, which is created when the first file is stored."""

    folder: Path

    @property
    def bases(self) -> Path:
        """The folder of the unpacked images."""
        return self.folder / "bases"

    @property
    def downloads(self) -> Path:
        """The folder of unfinished downloads."""
        return self.folder / "downloads"

    @property
    def boot(self) -> Path:
        """The folder of the companion kernel, and of the folders of running boots."""
        return self.folder / "boot"

    @property
    def checksums(self) -> Path:
        """The checksums of local files (base/notes.py)."""
        return self.folder / "checksums.json"

    @property
    def prepared(self) -> Path:
        """The folder of the notes of folders with prepared nodes (base/notes.py)."""
        return self.folder / "prepared"

    @property
    def dressed(self) -> Path:
        """The folder of the dressed bases (dressing/store.py)."""
        return self.folder / "dressed"

    @property
    def apt(self) -> Path:
        """The folder of apt's files (dressing/store.py)."""
        return self.folder / "apt"

    @property
    def layer_downloads(self) -> Path:
        """The folder of the downloads of layers (dressing/store.py)."""
        return self.folder / "files"

    def base_index(self, digest: str) -> Path:
        """The index of the base image ``digest``, which builds write."""
        return self.bases / f"{digest}.known"

    def kernel_packages(self, key: str) -> Path:
        """The folder with the unpacked packages of the companion kernel ``key``."""
        return self.boot / f"packages-{key}"

    def initramfs(self, key: str) -> Path:
        """The initramfs ``key`` of the companion kernel."""
        return self.boot / f"initramfs-{key}"

    def kernel_lock(self) -> Path:
        """The lock of the run that fetches the companion kernel."""
        return self.boot / "lock"

    def of_tests(self, name: str) -> Path:
        """The folder ``name`` of ``OF_TESTS``, created if it is missing."""
        if name not in OF_TESTS:
            raise ValueError(name)
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _lock_of(self, name: str) -> Path:
        return self.folder / "in-use" / f"{name}.lock"

    @contextlib.contextmanager
    def using(self, digest: str) -> Iterator[bool]:
        """Lock the base image ``digest`` against pruning while the block runs; False when it does not exist.

        A user without the right to write to the cache can only lock a lock file that exists.
        """
        with self._shared(digest) as locked:
            yield locked and (self.bases / f"{digest}.img").is_file()

    @contextlib.contextmanager
    def using_kernel(self) -> Iterator[None]:
        """Lock the companion kernel, also one that is not fetched yet, against pruning."""
        with self._shared(_KERNEL):
            yield

    @contextlib.contextmanager
    def _shared(self, name: str) -> Iterator[bool]:
        """Take a shared lock while the block runs; False when its subject was pruned meanwhile."""
        lock = self._lock_of(name)
        with contextlib.ExitStack() as stack:
            try:
                lock.parent.mkdir(parents=True, exist_ok=True)
                files.hand_over(lock.parent, self.folder)
                handle = _opened(lock)
            except OSError:
                handle = None
            if handle is not None:
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_SH)  # waits only while it is pruned
                if not os.fstat(handle).st_nlink:  # pruned, with its lock file
                    yield False
                    return
            yield True

    @contextlib.contextmanager
    def _unused(self, name: str, *, forget: bool = True) -> Iterator[bool]:
        """Take the exclusive lock ``name`` while the block runs; False when its subject is in use.

        ``forget``: the block removes the subject, so the lock file is removed after it.
        """
        lock = self._lock_of(name)
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = _opened(lock)
        except OSError as error:
            raise PiimgError(f"cannot lock {lock}: {error.strerror}", NOT_YOURS) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
            if forget:
                lock.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def path(self, record: Record) -> Path:
        """The unpacked image of ``record``."""
        return self.bases / f"{record.digest}.img"

    def records(self) -> tuple[Record, ...]:
        """The complete base images, by name; files that are not records are ignored."""
        records = (_read(path) for path in sorted(self.bases.glob("*.json")))
        complete = (record for record in records if record and self.path(record).is_file())
        return tuple(sorted(complete, key=lambda record: (record.name, record.digest)))

    def find(self, *, fetched: str = "", digest: str = "") -> Record | None:
        """The record of the base image with the sha256 ``fetched`` as fetched, else ``digest`` unpacked.

        An image that was changed since is hashed again; if its content is another one, it is removed.
        """
        matching = self._matching(fetched, digest)
        return next((record for record in matching if self._unchanged(record)), None)

    def present(self, *, fetched: str = "", digest: str = "") -> Record | None:
        """As ``find``, but nothing is hashed or removed: an image that was changed does not count."""
        return next((record for record in self._matching(fetched, digest) if self._untouched(record)), None)

    def _matching(self, fetched: str, digest: str) -> Iterator[Record]:
        for record in self.records():
            if record.fetched == fetched if fetched else digest and record.digest == digest:
                yield record

    def _untouched(self, record: Record) -> bool:
        state = self.path(record).stat()
        return (state.st_size, state.st_mtime_ns) == (record.size, record.modified)

    def _unchanged(self, record: Record) -> bool:
        path = self.path(record)
        if self._untouched(record) or sha256_of(path) == record.digest:
            return True
        path.unlink()
        return False

    @contextlib.contextmanager
    def held(self, reporter: Reporter, stop: threading.Event | None = None) -> Iterator[None]:
        """Lock the cache against other runs that change it; wait for them to end, or for ``stop``."""
        with contextlib.ExitStack() as stack:
            with writing(f"use the cache {self.folder}"):
                self.bases.mkdir(parents=True, exist_ok=True)
                self.downloads.mkdir(exist_ok=True)
                text = "waiting: another piimg is fetching into this cache"
                waits = partial(reporter.emit, Message("info", text))
                stack.enter_context(files.locked_after_waiting(self.folder / "lock", waits, stop))
            yield

    @contextlib.contextmanager
    def unpacking(self) -> Iterator[Path]:
        """An empty temporary file for an image; removed at the end unless ``keep`` renamed it.

        The cache must be locked (``held``): there is one such file, and that of a killed run is replaced.
        """
        path = self.bases / ".unpacking.partial"
        try:
            with writing("unpack into the cache"):
                path.unlink(missing_ok=True)
                path.touch(mode=0o600, exist_ok=False)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, unpacked: Path, record: Record) -> Record:
        """Rename a verified ``unpacked`` image (synced, read-only) to its final name; store its record."""
        with writing(f"keep {record.name} in the cache"):
            files.write_json(self._record_path(record), asdict(record))
            unpacked.replace(self.path(record))
            files.sync_folder(self.bases)
        return record

    def _record_path(self, record: Record) -> Path:
        return self.bases / f"{record.digest}-{record.fetched[:16]}.json"

    def used(self) -> int:
        """The disk usage of the cache in bytes."""
        of_layers = (self.dressed, self.apt, self.layer_downloads)
        of_tests = (self.folder / name for name in OF_TESTS)
        folders = (self.bases, self.downloads, self.boot, *of_layers, *of_tests)
        return sum(sum(sizes(folder)) for folder in folders)

    def prune(
        self,
        keep: Collection[str],
        keep_boot: Collection[Path] = (),
        *,
        needed: Collection[str] = (),
        tests: bool = False,
    ) -> Pruned:
        """Remove unfinished files, base images that are neither kept nor needed, and old kernels.

        ``keep`` has the sha256 of base images as fetched, ``needed`` those of unpacked ones. ``keep_boot``
        are the files and folders of the companion kernel that stay. ``tests``: also remove the files of the
        project's tests, of which none may be running, and the checksums of local files. What another run uses
        stays, with all its files. The cache must be locked (``held``).
        """
        records = self.records()
        kept = [record for record in records if record.fetched in keep or record.digest in needed]
        wanted = {
            path
            for record in kept
            for path in (self._record_path(record), self.path(record), self.base_index(record.digest))
        }
        of_base: dict[str, list[Path]] = {}
        for path in self._files():
            if path not in wanted:
                named = _DIGEST.search(path.name) if path.parent == self.bases else None
                of_base.setdefault(named[0] if named else "", []).append(path)
        removed = [remove(path) for path in of_base.pop("", [])]
        in_use = []
        for digest, paths in of_base.items():
            with self._unused(digest) as unused:
                if unused:
                    removed += [remove(path) for path in paths]
                else:
                    in_use += [record.name for record in records if record.digest == digest]
        if tests:
            folders = [folder for name in OF_TESTS if (folder := self.folder / name).is_dir()]
            checksums = [self.checksums] if self.checksums.exists() else []
            removed += [size for path in (*folders, *checksums) for size in remove_whole(path)]
        outdated = [path for path in self._kernels() if path not in keep_boot]
        if outdated:
            with self._unused(_KERNEL, forget=False) as unused:
                if unused:
                    removed += [size for path in outdated for size in remove_whole(path, retire=True)]
                else:
                    in_use.append(COMPANION_KERNEL)
        return Pruned(len(removed), sum(removed), tuple(dict.fromkeys(in_use)))

    def _kernels(self) -> list[Path]:
        """All companion kernels, with old and unfinished ones."""
        patterns = (".packages-*.partial", ".initramfs-*.partial", "packages-*", "initramfs-*")
        return [path for pattern in patterns for path in sorted(self.boot.glob(pattern))]

    def _files(self) -> list[Path]:
        return [
            path for folder in (self.bases, self.downloads) for path in folder.glob("*") if path.is_file()
        ]


def _read(path: Path) -> Record | None:
    try:
        return _RECORD.validate_json(read_regular(path, SMALL))
    except (OSError, ValidationError):
        return None


def _opened(lock: Path) -> int:
    """Open a file only to lock it. Raises OSError."""
    return os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
