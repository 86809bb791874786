"""Notes in the cache: checksums of local files that did not change, and the folders of prepared nodes.

A note that is missing, damaged or outdated only costs time, so it is never repaired and never reported.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from imagebuilder.base.cache import Cache, sha256_of
from imagebuilder.reading import SMALL, check_regular, read_regular
from imagebuilder.system import files

_KEPT = 64  # checksums; the oldest ones are removed
_SETTLED = 2 * 10**9  # nanoseconds; file systems store times in steps of up to 2 s (FAT)

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class _State:
    """What changes when a file's content does; times in nanoseconds since 1970."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int


@dataclass(frozen=True)
class _Checksum:
    """The sha256 (hex) of the file ``path`` in ``state``."""

    path: str
    state: _State
    sha256: Digest


@dataclass(frozen=True)
class PreparedFolder:
    """A ``folder`` of prepared nodes of ``cluster``. ``bases`` are the sha256 of the base images it used."""

    folder: str
    cluster: str
    bases: tuple[Digest, ...]


_CHECKSUMS = TypeAdapter(tuple[_Checksum, ...])
_FOLDER = TypeAdapter(PreparedFolder)
_Kind = TypeVar("_Kind")


def known_sha256(path: Path, cache: Cache) -> str:
    """The sha256 of the file ``path``, hex, if it was hashed before and did not change; else empty.

    Raises OSError when there is no such file.
    """
    state = _state(path)
    return next((kept.sha256 for kept in _checksums(cache) if kept.state == state), "")


def sha256_of_file(path: Path, cache: Cache) -> str:
    """The sha256 of the regular file ``path``, hex. It is read only if it changed since the last time.

    A file that was changed within two seconds before it is read is read the next time, too: it may change
    again without another time stamp. Raises OSError.
    """
    if known := known_sha256(path, cache):
        return known
    begun, before = time.time_ns(), _state(path)
    digest = sha256_of(path)
    if _state(path) == before and max(before.mtime, before.ctime) < begun - _SETTLED:
        kept = [
            checksum
            for checksum in _checksums(cache)
            if checksum.path != str(path.absolute()) and _is_true(checksum)
        ]
        _remember(cache, [*kept, _Checksum(str(path.absolute()), before, digest)][-_KEPT:])
    return digest


def _state(path: Path) -> _State:
    check_regular(path)
    info = path.stat()
    return _State(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _is_true(kept: _Checksum) -> bool:
    try:
        return _state(Path(kept.path)) == kept.state
    except (OSError, ValueError):
        return False


def _checksums(cache: Cache) -> Sequence[_Checksum]:
    return _read(cache.checksums, _CHECKSUMS) or ()


def _remember(cache: Cache, checksums: Sequence[_Checksum]) -> None:
    with contextlib.suppress(OSError):  # a cache of another user
        cache.folder.mkdir(parents=True, exist_ok=True)
        files.write_json(cache.checksums, [asdict(checksum) for checksum in checksums])


def _read(file: Path, kind: TypeAdapter[_Kind]) -> _Kind | None:
    try:
        return kind.validate_json(read_regular(file, SMALL))
    except (OSError, ValidationError, RecursionError):
        return None


def note_prepared(cache: Cache, folder: Path, cluster: str, base: str) -> None:
    """Note that the prepared nodes in ``folder`` need the base image with the sha256 ``base``."""
    place = str(folder.resolve())
    file = cache.prepared / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}.json"
    before = _read(file, _FOLDER)
    bases = before.bases if before else ()
    if before and before.cluster == cluster and base in bases:
        return
    note = PreparedFolder(place, cluster, tuple(dict.fromkeys([*bases, base]))[-_KEPT:])
    with contextlib.suppress(OSError, UnicodeEncodeError):
        cache.prepared.mkdir(parents=True, exist_ok=True)
        files.hand_over(cache.prepared, cache.folder)
        files.write_json(file, asdict(note))


def prepared_folders(cache: Cache) -> Iterator[tuple[Path, PreparedFolder]]:
    """Each note of a folder of prepared nodes, and its file; a note that is wrong is removed.

    The cache must be locked (``Cache.held``).
    """
    for file in sorted(cache.prepared.glob("*.json")):
        note = _read(file, _FOLDER)
        if note and _exists(Path(note.folder)):
            yield file, note
        else:
            forget(file)


def _exists(folder: Path) -> bool:
    try:
        return folder.stat() is not None
    except PermissionError:
        return True  # it cannot be known
    except (OSError, ValueError):
        return False


def forget(note: Path) -> None:
    """Remove the file of a note."""
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)


def needed_bases(note: PreparedFolder, found: Mapping[str, str] | None) -> frozenset[str]:
    """The sha256 of the bases that a folder needs. ``found`` has the base of each node prepared in it; None
    when the folder cannot be read: then all that it used are needed."""
    return frozenset(note.bases if found is None else found.values())
