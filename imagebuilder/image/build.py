"""Build of a node image: copy the base image, inject the node's entries, check and map the result."""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import Interrupted, PiimgError, UsageError
from imagebuilder.events import Message, Reporter
from imagebuilder.image import bmap, digest, ext4
from imagebuilder.image.allocation import used_ranges
from imagebuilder.image.base.opening import Base, fitted
from imagebuilder.image.base_index import Known
from imagebuilder.image.bmap import BlockMap
from imagebuilder.image.grow import make_room, recount, space_in
from imagebuilder.image.inject import clear_netplan, inject
from imagebuilder.image.partitions import Slice
from imagebuilder.image.results import Results, results_document
from imagebuilder.image.tree import BootTree, root_tree
from imagebuilder.model import Cluster, Entry, Kind, NodePlan, Partition
from imagebuilder.progress import Task, task
from imagebuilder.system import files, journal, mount
from imagebuilder.system.process import ToolError
from imagebuilder.text import printable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeImage:
    """A built node image with its result files, block map and tree digest."""

    node: str
    results: Results
    block_map: BlockMap
    tree_digest: str


def _check_file_system(image: Path, root: Slice, name: str) -> None:
    """Raise PiimgError unless e2fsck finds the root partition of ``image`` clean. Changes nothing.

    ``name`` is the user's name of the image.
    """
    try:
        ext4.check(image, root.start)
    except ToolError as error:
        raise PiimgError(
            f"the root file system of {name} is damaged",
            "it was undamaged before: check this machine's disk and memory",
        ) from error


def build_node(
    cluster: Cluster, plan: NodePlan, base: Base, output: Path, reporter: Reporter, stop: threading.Event
) -> NodeImage:
    """Build the image of ``plan.node`` in the folder ``output``.

    NODE.json is written last and removed first: if it exists, the set of files is complete. ``stop`` raises
    Interrupted between two steps and while the map is created. Raises PiimgError. No partial result is left.
    """
    begun = time.monotonic()
    name, plan = plan.node.name, fitted(plan, base)
    results = Results(output, name)
    mtime = _source_date_epoch(base.date)

    def check_stop() -> None:
        if stop.is_set():
            raise Interrupted(f"building {name} was stopped", "no partial result was left")

    def step(task_name: str) -> AbstractContextManager[Task]:
        check_stop()
        _log.info("%s: %s", name, task_name)
        return task(reporter, task_name, name)

    with files.locked(results.lock, f"{name} is being built into {output} by another piimg"):
        results.check()
        results.remove_partials()
        with files.replacing(results.image, 0o600) as work, _journaled(work):  # it contains secrets
            with step("copy"):
                with files.flushing(work):
                    files.copy_sparse(base.file, work)
                if base.recount:
                    recount(work, base.root)
                space = space_in(work, base.root) if base.recount else base.space
                root = make_room(work, base.root, space, plan.entries)
            with step("inject"):
                tree_digest = _inject(work, base, root, plan, mtime, reporter)
            with step("check"):
                _check_file_system(work, root, results.image.name)
            block_map = _map(work, base.known, name, reporter, check_stop)
            check_stop()
            results.clear()
        bmap.write(results.block_map, block_map)
        files.write_json(results.json, results_document(cluster, plan, base, block_map, tree_digest, mtime))
    _log.info("%s: built in %.1f s, tree digest %s", name, time.monotonic() - begun, tree_digest)
    return NodeImage(name, results, block_map, tree_digest)


def _source_date_epoch(otherwise: int) -> int:
    """$SOURCE_DATE_EPOCH (reproducible-builds.org's specification) in seconds, or ``otherwise``."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not re.fullmatch(r"[0-9]{1,10}", given):
        raise UsageError(f"SOURCE_DATE_EPOCH is {given!r}", "set it to a number of seconds since 1970")
    return int(given) if given else otherwise


@contextlib.contextmanager
def _journaled(work: Path) -> Iterator[None]:
    """Record the unfinished image in the journal, so that `piimg cleanup` removes it after a kill."""
    info = work.stat()
    with journal.hold("file", path=str(work.resolve()), device=info.st_dev, inode=info.st_ino):
        yield


def _inject(work: Path, base: Base, root: Slice, plan: NodePlan, mtime: int, reporter: Reporter) -> str:
    """Inject the entries into both partitions. Returns the tree digest of the result."""
    entries = [entry for entry in plan.entries if entry.kind is not Kind.NETPLAN]
    on_boot = [entry for entry in entries if entry.partition is Partition.BOOT]
    on_root = [entry for entry in entries if entry.partition is Partition.ROOT]
    inject(BootTree(work, base.boot.start), on_boot, mtime)
    records = list(digest.walk_boot(work, base.boot.start, _written(on_boot)))
    with mount.ext4(work, root.start, root.size) as point:
        with root_tree(point) as tree:
            for cleared in clear_netplan(tree, plan.entries, mtime):
                text = f"{cleared.path} of the base image is removed: {cleared.why}"
                reporter.emit(Message("info", printable(text, None), plan.node.name))
            inject(tree, on_root, mtime)
        records += digest.walk_root(point, _written(on_root), base.known.digest_of)
    return digest.digest(records)


def _written(entries: Sequence[Entry]) -> frozenset[bytes]:
    return frozenset(entry.path.encode() for entry in entries if entry.kind is not Kind.REMOVE)


def _map(work: Path, known: Known, name: str, reporter: Reporter, check_stop: Callable[[], None]) -> BlockMap:
    ranges = used_ranges(work)
    with task(reporter, "map", name, sum(end - start for start, end in ranges)) as mapping:

        def advance(count: int) -> None:
            check_stop()
            mapping.advance(count)

        return bmap.make(work, ranges, advance, known.file, known.pieces)
