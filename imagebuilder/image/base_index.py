"""Index of a base image: the digests of its pieces and files, stored beside it to speed up builds.

A build changes few bytes of the copy. The digest of an unchanged piece, or of a file that was not written
since, is taken from the index; other data is read and hashed. A file is unchanged if its change time (ctime)
is the same: the kernel updates it on every change, and no program can set it.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.events import Reporter
from imagebuilder.image import bmap, digest
from imagebuilder.image.allocation import used_ranges
from imagebuilder.image.partitions import Slice
from imagebuilder.progress import task
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.system import files, mount

_FORMAT = 1

Sign = tuple[int, int, int, int]
"""The signature of an unchanged file: its inode, size in bytes, and mtime and ctime in nanoseconds."""


@dataclass(frozen=True)
class Known:
    """The base image ``file``: the digest of each piece in use, by (start, end), and of each file of its root
    partition, by path from its top. Digests are sha256 in hex."""

    file: Path | None = None
    pieces: Mapping[tuple[int, int], str] = field(default_factory=dict)
    files: Mapping[bytes, tuple[Sign, str]] = field(default_factory=dict)

    def digest_of(self, path: bytes, status: os.stat_result) -> str | None:
        """The digest of a file of the mounted root partition, if it is unchanged; else None."""
        sign, known = self.files.get(path, (None, None))
        return known if sign == sign_of(status) else None


def sign_of(status: os.stat_result) -> Sign:
    """The signature of a file with this status."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def known_of(
    file: Path, sha256: str, root: Slice, name: str, reporter: Reporter, kept: Path | None = None
) -> Known:
    """The index of the base image ``file`` with the digest ``sha256``: read from ``kept``, else created.

    ``kept`` is the file that stores the index; if it cannot be written, the index is created on each call.
    Raises PiimgError when the image cannot be read.
    """
    if kept and (known := _read(kept, file, sha256)) is not None:
        return known
    known = _index(file, root, name, reporter)
    if kept:
        with contextlib.suppress(OSError):
            files.write(kept, _written(known, sha256))
    return known


def _index(file: Path, root: Slice, name: str, reporter: Reporter) -> Known:
    used = used_ranges(file)
    total = sum(end - start for start, end in used)
    with task(reporter, "map", name, total) as mapping:
        block_map = bmap.make(file, used, mapping.advance)
        with mount.ext4(file, root.start, root.size, read_only=True) as point:
            digests = dict(_files(point))
    return Known(file, {(piece.start, piece.end): piece.digest for piece in block_map}, digests)


def _files(point: Path) -> Iterator[tuple[bytes, tuple[Sign, str]]]:
    """Every file of the partition mounted at ``point``."""
    for path, host, status in digest.walk(point):
        if stat.S_ISREG(status.st_mode):
            yield path, (sign_of(status), digest.of_file(host))


def _written(known: Known, sha256: str) -> bytes:
    """The index as JSON. Bytes of names that are not UTF-8 are lone surrogates."""
    document = {
        "format": _FORMAT,
        "sha256": sha256,
        "pieces": [[*ends, its] for ends, its in known.pieces.items()],
        "files": [[os.fsdecode(path), *sign, its] for path, (sign, its) in known.files.items()],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _read(kept: Path, file: Path, sha256: str) -> Known | None:
    """The stored index; None if it is missing, invalid or of another image."""
    try:
        document = json.loads(read_regular(kept, LARGE))
        if (document["format"], document["sha256"]) != (_FORMAT, sha256):
            return None
        pieces = {(start, end): its for start, end, its in document["pieces"]}
        found = {os.fsencode(path): ((a, b, c, d), its) for path, a, b, c, d, its in document["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Known(file, pieces, found)
