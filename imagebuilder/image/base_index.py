"""Index of a base image: the digests of its pieces and the records of its paths, stored beside it.

A node differs from its base in few bytes. The digest of an unchanged piece, and the record of an unchanged
path (image/digest.py), are taken from the index; the others are read and hashed.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.events import Reporter
from imagebuilder.image import bmap, digest
from imagebuilder.image.allocation import Span, used_ranges
from imagebuilder.image.partitions import Slice
from imagebuilder.progress import task
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.system import files, mount
from imagebuilder.system.scratch import scratch_folder

_FORMAT = 4


@dataclass(frozen=True)
class Known:
    """The base image ``file``: the sha256 (hex) of each piece in use, by (start, end), and the record of each
    path of both partitions."""

    file: Path | None = None
    pieces: Mapping[tuple[int, int], str] = field(default_factory=dict)
    records: digest.Records = field(default_factory=dict)

    @property
    def used(self) -> list[Span]:
        """The ranges in use, as pieces: in order, not overlapping."""
        return sorted(self.pieces)


def known_of(
    file: Path,
    sha256: str,
    boot: Slice,
    root: Slice,
    name: str,
    reporter: Reporter,
    kept: Path | None = None,
) -> Known:
    """The index of the base image ``file`` with the digest ``sha256``: read from ``kept``, else created.

    ``kept`` is the file that stores the index; if it cannot be written, the index is created on each call.
    Raises PiimgError when the image cannot be read.
    """
    if kept and (known := _read(kept, file, sha256)) is not None:
        return known
    known = _index(file, boot, root, name, reporter)
    if kept:
        with contextlib.suppress(OSError):
            files.write(kept, _written(known, sha256))
    return known


def _index(file: Path, boot: Slice, root: Slice, name: str, reporter: Reporter) -> Known:
    used = used_ranges(file)
    total = sum(end - start for start, end in used)
    with task(reporter, "map", name, total) as mapping:
        block_map = bmap.make(file, used, mapping.advance)
        with scratch_folder() as folder:
            records = digest.records_of(digest.walk_boot(file, boot.start, folder))
        with mount.ext4(file, root.start, root.size, read_only=True) as point:
            records |= digest.records_of(digest.walk_root(point))
    # In order, because a tree digest sorts them: that is fast if most are in order already.
    ordered = dict(sorted(records.items()))
    return Known(file, {(piece.start, piece.end): piece.digest for piece in block_map}, ordered)


def _written(known: Known, sha256: str) -> bytes:
    """The index: a line of JSON, then the partition and the record of each path as netstrings.

    Both are in the record, too, but there they would have to be looked for.
    """
    head = {
        "format": _FORMAT,
        "sha256": sha256,
        "pieces": [[*ends, its] for ends, its in known.pieces.items()],
    }
    fields = (
        digest.netstring(field)
        for (partition, path), its in known.records.items()
        for field in (partition.encode(), path, its)
    )
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(fields)


def _read(kept: Path, file: Path, sha256: str) -> Known | None:
    """The stored index; None if it is missing, invalid or of another image."""
    try:
        head, _, rest = read_regular(kept, LARGE).partition(b"\n")
        document = json.loads(head)
        if (document["format"], document["sha256"]) != (_FORMAT, sha256):
            return None
        pieces = {(start, end): its for start, end, its in document["pieces"]}
        fields = digest.netstrings(rest)
        records = {
            (partition.decode(), path): its for partition, path, its in zip(*[fields] * 3, strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Known(file, pieces, records)
