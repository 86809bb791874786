"""The cache of base images: unpacked once, named by the digest of their content, never half there.

    bases/DIGEST.img           the image, sparse, read-only; DIGEST is its sha256
    bases/DIGEST-FETCHED.json  its record; FETCHED is the start of the sha256 as it was fetched
    bases/DIGEST.known         what builds remember of the image (image/base_index.py); made anew if gone
    downloads/KEY.partial      an unfinished download, and KEY.json what a server needs to resume it
    in-use/DIGEST.lock         locked, shared (flock(2)), by each run that uses the base

A base is the first two together; one without the other counts for nothing.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from imagebuilder.base.catalogue import Trust
from imagebuilder.base.space import writing
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.reading import SMALL, open_regular, read_regular
from imagebuilder.system import files

_CHUNK = 4 << 20  # bytes
_DIGEST = re.compile(r"[0-9a-f]{64}")
_POLL = 0.5  # seconds between two tries for the lock


@dataclass(frozen=True)
class Record:
    """What is known of a base in the cache.

    ``digest`` and ``size`` (bytes) are of the unpacked image, ``fetched`` is the sha256 of the file as it
    was fetched. ``signer`` is the fingerprint of the key that signed it, empty if none did.
    ``modified`` is the image's time of last change in nanoseconds: a changed file is hashed again.
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


@dataclass(frozen=True)
class Pruned:
    """What a prune removed: how many files, and how many bytes of disk that freed.

    ``kept`` are the names of the bases that it would have removed, were they not in use.
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
    """The cache in ``folder``; made when something is first kept in it."""

    folder: Path

    @property
    def bases(self) -> Path:
        """Where the unpacked images are."""
        return self.folder / "bases"

    @property
    def downloads(self) -> Path:
        """Where unfinished downloads are."""
        return self.folder / "downloads"

    def _lock_of(self, digest: str) -> Path:
        return self.folder / "in-use" / f"{digest}.lock"

    @contextlib.contextmanager
    def using(self, digest: str) -> Iterator[bool]:
        """Hold the base ``digest`` against being pruned while the block runs; False when it is not there.

        Where this user may not write to the cache, only a lock that is there already can be held.
        """
        lock = self._lock_of(digest)
        with contextlib.ExitStack() as stack:
            try:
                lock.parent.mkdir(parents=True, exist_ok=True)
                files.hand_over(lock.parent, self.folder)
                handle = _opened(lock)
            except OSError:
                handle = None
            if handle is not None:
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_SH)  # waits at most while it is being pruned
                if not os.fstat(handle).st_nlink:  # it was, and the lock with it
                    yield False
                    return
            yield (self.bases / f"{digest}.img").is_file()

    @contextlib.contextmanager
    def _unused(self, digest: str) -> Iterator[bool]:
        """Whether nobody uses the base ``digest``; nobody begins to while the block runs."""
        lock = self._lock_of(digest)
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = _opened(lock)
        except OSError as error:
            raise PiimgError(f"cannot lock {lock}: {error.strerror}", "is the cache yours?") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
            lock.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def path(self, record: Record) -> Path:
        """The unpacked image of ``record``."""
        return self.bases / f"{record.digest}.img"

    def records(self) -> tuple[Record, ...]:
        """Every base that is whole, by name; files that are no records are passed over."""
        found = (_read(path) for path in sorted(self.bases.glob("*.json")))
        there = (record for record in found if record and self.path(record).is_file())
        return tuple(sorted(there, key=lambda record: (record.name, record.digest)))

    def find(self, *, fetched: str = "", digest: str = "") -> Record | None:
        """The record of the base with this sha256 as fetched, or else with this one unpacked.

        A base whose file was changed since is hashed again; if it is no longer the same, it is removed.
        """
        for record in self.records():
            wanted = record.fetched == fetched if fetched else bool(digest) and record.digest == digest
            if wanted and self._still_whole(record):
                return record
        return None

    def _still_whole(self, record: Record) -> bool:
        path = self.path(record)
        state = path.stat()
        if (state.st_size, state.st_mtime_ns) == (record.size, record.modified):
            return True
        if sha256_of(path) == record.digest:
            return True
        path.unlink()
        return False

    @contextlib.contextmanager
    def held(self, reporter: Reporter) -> Iterator[None]:
        """Hold the cache against other runs that would change it; waits for them to end."""
        with contextlib.ExitStack() as stack:
            with writing(f"use the cache {self.folder}"):
                self.bases.mkdir(parents=True, exist_ok=True)
                self.downloads.mkdir(exist_ok=True)
                self._lock(stack, reporter)
            yield

    def _lock(self, stack: contextlib.ExitStack, reporter: Reporter) -> None:
        told = False
        while True:
            try:
                stack.enter_context(files.locked(self.folder / "lock", "the cache is in use"))
                return
            except PiimgError:
                if not told:
                    reporter.emit(Message("info", "waiting: another piimg is fetching into this cache"))
                    told = True
                time.sleep(_POLL)

    @contextlib.contextmanager
    def unpacking(self) -> Iterator[Path]:
        """An empty temporary file for an image on its way in; gone at the end unless it was kept.

        Call it with the cache held: there is one at a time, and what a killed run left is replaced.
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
        """Take a verified ``unpacked`` image (synced, read-only) in under its final name."""
        with writing(f"keep {record.name} in the cache"):
            files.write_json(self._record_path(record), asdict(record))
            unpacked.replace(self.path(record))
            files.sync_folder(self.bases)
        return record

    def _record_path(self, record: Record) -> Path:
        return self.bases / f"{record.digest}-{record.fetched[:16]}.json"

    def used(self) -> int:
        """Bytes of disk that the cache takes."""
        return sum(path.lstat().st_blocks * 512 for path in self._files())

    def prune(self, keep: Collection[str]) -> Pruned:
        """Remove unfinished work, and every base whose sha256 as fetched is not in ``keep``.

        A base that another run uses stays, with all that belongs to it. Call it with the cache held.
        """
        records = self.records()
        kept = [record for record in records if record.fetched in keep]
        wanted = {self._record_path(record) for record in kept}
        for image in map(self.path, kept):
            wanted |= {image, image.with_suffix(".known")}
        of_base: dict[str, list[Path]] = {}
        for path in self._files():
            if path not in wanted:
                named = _DIGEST.search(path.name) if path.parent == self.bases else None
                of_base.setdefault(named[0] if named else "", []).append(path)
        removed = [_removed(path) for path in of_base.pop("", [])]
        in_use = []
        for digest, paths in of_base.items():
            with self._unused(digest) as unused:
                if unused:
                    removed += [_removed(path) for path in paths]
                else:
                    in_use += [record.name for record in records if record.digest == digest]
        return Pruned(len(removed), sum(removed), tuple(dict.fromkeys(in_use)))

    def _files(self) -> list[Path]:
        return [
            path for folder in (self.bases, self.downloads) for path in folder.glob("*") if path.is_file()
        ]


def _removed(path: Path) -> int:
    """Remove a file; how many bytes of disk it took."""
    try:
        taken = path.lstat().st_blocks * 512
        path.unlink()
    except FileNotFoundError:  # what its owner just finished
        return 0
    except OSError as error:
        raise PiimgError(f"cannot remove {path}: {error.strerror}", "is the cache yours?") from error
    return taken


def _read(path: Path) -> Record | None:
    try:
        return _RECORD.validate_json(read_regular(path, SMALL))
    except (OSError, ValidationError):
        return None


def _opened(lock: Path) -> int:
    """Open a file to lock it; nothing is written to it. Raises OSError."""
    return os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
