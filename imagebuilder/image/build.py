"""Build of a node image: a whole image for other tools, from the base image and a prepared node."""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image import bmap
from imagebuilder.image.bmap import BlockMap
from imagebuilder.image.prepared import PreparedNode
from imagebuilder.image.results import Results
from imagebuilder.system import files, space
from imagebuilder.system.scratch import unfinished_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeImage:
    """A built node image with its result files, block map and tree digest."""

    node: str
    results: Results
    block_map: BlockMap
    tree_digest: str


def write_image(prepared: PreparedNode, output: Path) -> NodeImage:
    """Write the image of a prepared node, its block map and NODE.json into the folder ``output``.

    It is a sparse copy of the base image with the changed blocks over it. NODE.json is written last and
    removed first: if it exists, the set of files is complete. Raises PiimgError. No partial result is left.
    """
    content, results = prepared.content, Results(output, prepared.node)
    with files.locked(results.lock, f"{prepared.node} is being built into {output} by another piimg"):
        results.check()
        results.remove_partials()
        with files.replacing(results.image, 0o600) as work, unfinished_file(work):  # it contains secrets
            with _roomy(prepared, work), files.flushing(work):
                files.copy_sparse(content.base, work)
                _lay_changes(prepared, work)
            results.clear()
        bmap.write(results.block_map, prepared.block_map)
        files.write_json(results.json, prepared.document)
    _log.info("%s: written to %s", prepared.node, results.image)
    return NodeImage(prepared.node, results, prepared.block_map, prepared.tree_digest)


def _roomy(prepared: PreparedNode, work: Path) -> AbstractContextManager[None]:
    """Name the disk if it is full."""

    def needs() -> int:
        changed = sum(end - start for start, end in prepared.content.spans)
        return space.allocated(prepared.content.base) + changed

    hint = "free some space there, or build into another folder: piimg build --output DIR"
    taken = partial(space.allocated, work)
    return space.naming_full_disk(work.parent, f"building {prepared.node}", needs, hint, taken)


def _lay_changes(prepared: PreparedNode, work: Path) -> None:
    content = prepared.content
    assert content.changes is not None
    try:
        with content.changes.open("rb") as source, work.open("r+b") as image:
            image.truncate(content.size)
            for start, end in content.spans:
                image.seek(start)
                image.write(source.read(end - start))
    except OSError as error:
        raise PiimgError(
            f"cannot write {work.parent}/{prepared.node}.img: {error.strerror}",
            "free some space, or choose another folder",
        ) from error
