"""Prepared nodes: for each node what differs from its base image, named by what it is made of.

    NODE.blocks   the changed blocks, one after another (image/content.py)
    NODE.bmap     the block map of the whole image
    NODE.json     the record: what it is made of, the ranges of the changed blocks, and a build's document

All are 0600 in a folder with 0700, as the blocks contain the node's secrets. NODE.json is written last and
removed first, and has the digests of the others: what is cut off, changed, or of another version of piimg is
not used, and the node is prepared again.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imagebuilder.errors import PiimgError
from imagebuilder.image import bmap
from imagebuilder.image.allocation import Span
from imagebuilder.image.bmap import BlockMap
from imagebuilder.image.content import ImageContent
from imagebuilder.image.partitions import Slice
from imagebuilder.image.recipe import Recipe
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.system import files

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedNode:
    """A node that is ready to be written: its ``content``, the ``block_map`` of it, and what is in it.

    ``document`` is the content of NODE.json of a build (image/results.py); ``boot_paths`` are the paths on
    the boot partition, in lower case, and a folder ends with a slash.
    """

    node: str
    recipe: Recipe
    content: ImageContent
    block_map: BlockMap
    document: Mapping[str, Any]
    boot: Slice
    root: Slice
    boot_paths: frozenset[str]

    @property
    def tree_digest(self) -> str:
        """The tree digest of the image (image/digest.py)."""
        return str(self.document["tree_digest"])


@dataclass(frozen=True)
class PreparedRecord:
    """NODE.json. ``base``, ``blocks`` and ``block_map`` are the sha256 of the base image and of two files.

    ``texts`` are texts of files, by partition and path, to show what changed since (image/parts.py).
    """

    recipe: str
    parts: dict[str, str]
    base: str
    size: int
    spans: tuple[Span, ...]
    blocks: str
    block_map: str
    document: dict[str, Any]
    boot: Slice
    root: Slice
    boot_paths: tuple[str, ...]
    texts: dict[str, str] = field(default_factory=dict)


_RECORD = TypeAdapter(PreparedRecord)


@dataclass(frozen=True)
class PreparedFiles:
    """The files of a prepared node in ``folder``."""

    folder: Path
    node: str

    @property
    def blocks(self) -> Path:
        """The changed blocks."""
        return self.folder / f"{self.node}.blocks"

    @property
    def block_map(self) -> Path:
        """The block map."""
        return self.folder / f"{self.node}.bmap"

    @property
    def record(self) -> Path:
        """The record."""
        return self.folder / f"{self.node}.json"

    def hand_over(self) -> None:
        """Give the files to the owner of the folder. Raises OSError."""
        for file in (self.blocks, self.block_map, self.record):
            files.hand_over(file, self.folder)

    def clear(self) -> None:
        """Remove the node's files, the record first, and what a killed run left. Raises OSError."""
        for file in (self.record, self.block_map, self.blocks):
            file.unlink(missing_ok=True)
            for partial in self.folder.glob(f".{file.name}.*.partial"):
                partial.unlink(missing_ok=True)


def store(place: PreparedFiles, node: PreparedNode, base: str, texts: Mapping[str, str]) -> None:
    """Store a prepared node, whose changed blocks are in place already, durably.

    ``base`` is the sha256 of the base image; ``texts`` as for the record. All files belong to the owner of
    the folder. Raises OSError or PiimgError.
    """
    bmap.write(place.block_map, node.block_map, 0o600)
    record = PreparedRecord(
        recipe=node.recipe.name,
        parts=dict(node.recipe.parts),
        base=base,
        size=node.content.size,
        spans=node.content.spans,
        blocks=_digest(place.blocks),
        block_map=_digest(place.block_map),
        document=dict(node.document),
        boot=node.boot,
        root=node.root,
        boot_paths=tuple(sorted(node.boot_paths)),
        texts=dict(texts),
    )
    text = _RECORD.dump_json(record)
    seal = hashlib.sha256(text).hexdigest().encode()
    files.write(place.record, seal + b"\n" + text, 0o600)
    place.hand_over()


def load(place: PreparedFiles, base: Path, digest: str) -> PreparedNode | None:
    """The prepared node, on the base image ``base`` with the sha256 ``digest``; None if it cannot be used.

    All its files are read and checked. A base that is not ``digest`` is another one: then it is None too.
    """
    record = read_record(place)
    if record is None or record.base != digest:
        return None
    try:
        total = sum(end - start for start, end in record.spans)
        intact = (
            place.blocks.stat().st_size == total
            and _digest(place.blocks) == record.blocks
            and _digest(place.block_map) == record.block_map
            and _ordered(record.spans, record.size)
        )
        if not intact:
            return None
        block_map = bmap.read(place.block_map)
    except (OSError, PiimgError) as error:
        _log.info("%s: not usable: %s", place.record, error)
        return None
    content = ImageContent(base, record.size, place.blocks, record.spans)
    return PreparedNode(
        place.node,
        Recipe(record.recipe, record.parts),
        content,
        block_map,
        record.document,
        record.boot,
        record.root,
        frozenset(record.boot_paths),
    )


def read_record(place: PreparedFiles) -> PreparedRecord | None:
    """The record of a prepared node; None if it is missing, damaged, or of another version of piimg."""
    try:
        seal, _, text = read_regular(place.record, LARGE).partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != seal:
            return None
        return _RECORD.validate_json(text)
    except (OSError, ValidationError, RecursionError):
        return None


def nodes_in(folder: Path) -> list[str]:
    """The names of the nodes with a record in ``folder``, sorted. Raises OSError."""
    return sorted(file.stem for file in folder.iterdir() if file.suffix == ".json")


def bases_of(folder: Path) -> dict[str, str]:
    """The sha256 of the base image of each node that is prepared in ``folder``, by node. Raises OSError."""
    records = ((name, read_record(PreparedFiles(folder, name))) for name in nodes_in(folder))
    return {name: record.base for name, record in records if record}


def downloads_of(folder: Path) -> frozenset[str]:
    """The sha256 of the downloads of layers that the nodes prepared in ``folder`` have. Raises OSError."""
    records = (read_record(PreparedFiles(folder, name)) for name in nodes_in(folder))
    entries = (entry for record in records if record for entry in record.document.get("entries", ()))
    return frozenset(str(entry["download"]["sha256"]) for entry in entries if "download" in entry)


def _ordered(spans: Sequence[Span], size: int) -> bool:
    ends = [0, *(end for _, end in spans)]
    return all(before <= start < end <= size for before, (start, end) in zip(ends, spans, strict=False))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
