"""Preparation of a node: find out what differs from the base image once the node's entries are injected.

The base is never copied and never written to: the entries go into a scratch copy (image/scratch.py).
"""

import contextlib
import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from imagebuilder.errors import Interrupted, PiimgError, UsageError
from imagebuilder.events import Message, Reporter
from imagebuilder.image import bmap, digest, ext4, prepared, scratch
from imagebuilder.image.allocation import GRAIN, Span, used_ranges
from imagebuilder.image.base.opening import Base, fitted
from imagebuilder.image.base_index import Known, known_of
from imagebuilder.image.bmap import BlockMap, Range
from imagebuilder.image.content import ImageContent
from imagebuilder.image.filesystem import file_system, walk
from imagebuilder.image.grow import make_room, needed_room, space_in
from imagebuilder.image.inject import clear_netplan, inject
from imagebuilder.image.partitions import Slice
from imagebuilder.image.parts import kept_texts
from imagebuilder.image.prepared import PreparedFiles, PreparedNode
from imagebuilder.image.recipe import Recipe, recipe_of
from imagebuilder.image.results import results_document
from imagebuilder.image.scratch import Template
from imagebuilder.image.tree import BootTree, RootTree, root_tree
from imagebuilder.image.untrusted import raw_reader
from imagebuilder.model import Cluster, Entry, Kind, NodePlan, Partition
from imagebuilder.progress import Task, task
from imagebuilder.system import files, mount, space
from imagebuilder.system.process import ToolError
from imagebuilder.system.scratch import scratch_folder
from imagebuilder.system.threads import wait_for
from imagebuilder.text import printable

_SECONDS = 60.0  # for reading the folders of a boot partition

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """What the preparations of a run share.

    What is ``known`` of the ``base``, a ``folder`` for scratch copies, the ``template`` that they are made
    from, and ``point``, where the root partition of the base is mounted for reading.
    """

    base: Base
    known: Known
    folder: Path
    template: Template
    point: Path


@contextlib.contextmanager
def bench(base: Base, folder: Path, reporter: Reporter) -> Iterator[Bench]:
    """Set up the preparation of nodes from ``base``, with scratch copies in ``folder``. Raises PiimgError.

    On first use the whole base image is read, to index it. Its template is made by other programs meanwhile.
    """
    with scratch_folder(folder) as inside:
        with ThreadPoolExecutor(1, "template") as pool:
            making = pool.submit(_shared_template, base, folder, inside)
            known = known_of(base.file, base.digest, base.boot, base.root, base.name, reporter, base.index)
            wait_for([making])
        with mount.ext4(base.file, base.root.start, base.root.size, read_only=True) as point:
            yield Bench(base, known, inside, making.result(), point)


def _shared_template(base: Base, folder: Path, inside: Path) -> Template:
    with _roomy(folder, "preparing nodes", partial(scratch.template_size, base), inside):
        return scratch.make_template(base, inside / "template")


def fitted_recipe(cluster: Cluster, plan: NodePlan, base: Base) -> tuple[NodePlan, Recipe]:
    """The plan as it is on this base image, and its recipe. Raises PiimgError."""
    plan = fitted(plan, base)
    mtime = _source_date_epoch(base.date)
    return plan, recipe_of(cluster, plan, base.digest, mtime, made_from=base.made_from)


def prepare_node(
    cluster: Cluster,
    plan: NodePlan,
    recipe: Recipe,
    shared: Bench,
    place: PreparedFiles,
    reporter: Reporter,
    stop: threading.Event,
) -> PreparedNode:
    """Prepare ``plan.node``, whose plan is fitted to the base, and store it in ``place``.

    ``stop`` raises Interrupted between two steps. Raises PiimgError. Nothing unfinished is left.
    """
    begun = time.monotonic()
    base, name = shared.base, plan.node.name
    mtime = _source_date_epoch(base.date)

    def check_stop() -> None:
        if stop.is_set():
            raise Interrupted(f"preparing {name} was stopped", "nothing unfinished was left")

    def step(task_name: str) -> AbstractContextManager[Task]:
        check_stop()
        _log.info("%s: %s", name, task_name)
        return task(reporter, task_name, name)

    with _saving(place.folder):
        place.clear()
        with scratch_folder(shared.folder) as folder, contextlib.ExitStack() as stack:
            work = folder / f"{name}.img"
            stack.enter_context(
                _roomy(place.folder, f"preparing {name}", partial(_needs, shared, plan), folder)
            )
            with step("copy"):
                template, root = _scratch_copy(shared, plan, folder, work)
            with step("inject"):
                tree_digest, written = _inject(work, shared, root, plan, mtime, folder, reporter)
            with step("check"):
                _check_file_system(work, root.start, name)
            with step("map"):
                used = used_ranges(work)
                spans = scratch.changed_spans(
                    base, template, work, used_before=shared.known.used, used=used, written=written
                )
                check_stop()
                _store_blocks(work, spans, place.blocks)
                content = ImageContent(base.file, work.stat().st_size, place.blocks, spans)
                block_map = _map(content, used, shared.known, check_stop)
                boot_paths = _boot_paths(work, base.boot)
        document = results_document(cluster, plan, base, block_map, tree_digest, mtime)
        node = PreparedNode(name, recipe, content, block_map, document, base.boot, root, boot_paths)
        prepared.store(place, node, base.digest, kept_texts(plan.entries))
    _log.info("%s: prepared in %.1f s, tree digest %s", name, time.monotonic() - begun, tree_digest)
    return node


def _roomy(folder: Path, doing: str, needs: Callable[[], int], inside: Path) -> AbstractContextManager[None]:
    """Name the disk of ``folder`` if it is full; ``inside`` is the scratch folder there."""

    def taken() -> int:
        return sum(space.allocated(file) for file in inside.rglob("*"))

    return space.naming_full_disk(folder, doing, needs, "free some space there", taken)


def _needs(shared: Bench, plan: NodePlan) -> int:
    """About the bytes of disk that the preparation of a node takes: its scratch copy, and what is kept."""
    contents = 2 * sum(len(entry.content) for entry in plan.entries)
    complete = shared.template.complete or needed_room(shared.base.space, plan.entries)
    return contents + space.allocated(shared.base.file if complete else shared.template.file)


@contextlib.contextmanager
def _saving(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PiimgError(f"cannot write to {folder}: {error.strerror}", "free some space there") from error


def _scratch_copy(shared: Bench, plan: NodePlan, folder: Path, work: Path) -> tuple[Template, Slice]:
    """Make the scratch copy ``work``, grown if the entries need it. Its template, and its root partition."""
    base, template = shared.base, shared.template
    room = space_in(template.file, base.root) if base.recount else base.space
    if needed_room(room, plan.entries) and not template.complete:
        template = scratch.make_template(base, folder / "complete", complete=True)
        template.file.rename(work)
        template = replace(shared.template, complete=True)
    else:
        files.copy_sparse(template.file, work)
    return template, make_room(work, base.root, room, plan.entries)


def _source_date_epoch(otherwise: int) -> int:
    """$SOURCE_DATE_EPOCH (reproducible-builds.org's specification) in seconds, or ``otherwise``."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not re.fullmatch(r"[0-9]{1,10}", given):
        raise UsageError(f"SOURCE_DATE_EPOCH is {given!r}", "set it to a number of seconds since 1970")
    return int(given) if given else otherwise


def _inject(
    work: Path,
    shared: Bench,
    root: Slice,
    plan: NodePlan,
    mtime: int,
    folder: Path,
    reporter: Reporter,
) -> tuple[str, list[Span]]:
    """Inject the entries into both partitions.

    Returns the tree digest of the result, and the ranges in bytes of the files written to the root partition.
    """
    base = shared.base
    entries = [entry for entry in plan.entries if entry.kind is not Kind.NETPLAN]
    on_boot = [entry for entry in entries if entry.partition is Partition.BOOT]
    on_root = [entry for entry in entries if entry.partition is Partition.ROOT]
    boot_tree = BootTree(work, base.boot.start)
    inject(boot_tree, on_boot, mtime)
    records = dict(shared.known.records)
    _update_boot(records, boot_tree, on_boot, folder)
    with mount.ext4(work, root.start, root.size) as point:
        with root_tree(point, shared.point) as tree:
            for cleared in clear_netplan(tree, plan.entries, mtime):
                text = f"{cleared.path} of the base image is removed: {cleared.why}"
                reporter.emit(Message("info", printable(text, None), plan.node.name))
            inject(tree, on_root, mtime)
        _update_root(records, tree, on_root, point, shared.point)
        inodes = [number for path in tree.written if (number := _inode(point, path))]
    numbers = ext4.blocks(work, root.start, inodes)
    written = [(root.start + number * GRAIN, root.start + (number + 1) * GRAIN) for number in numbers]
    return digest.digest(records), written


def _inode(point: Path, path: bytes) -> int:
    """The inode number of a regular file; 0 if ``path`` is none. debugfs cannot look up every path."""
    try:
        status = os.lstat(os.fsencode(point) + path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return status.st_ino if stat.S_ISREG(status.st_mode) else 0


Records = dict[tuple[str, bytes], bytes]


def _update_root(records: Records, tree: RootTree, entries: Sequence[Entry], point: Path, base: Path) -> None:
    """Bring the records of the base image up to what the tree at ``point`` is now.

    ``base`` is where the base image is mounted: a scratch copy has no data of files that were not written.
    """
    _forget(records, Partition.ROOT, tree.removed)
    named = _named(entries)
    for path in tree.written:
        records.pop((Partition.ROOT.value, path), None)
    records |= digest.records_of(digest.root_entries(point, tree.written, named))
    kept = (path for path in named - tree.written if (Partition.ROOT.value, path) in records)
    records |= digest.records_of(digest.root_entries(base, kept, named))


def _update_boot(records: Records, tree: BootTree, entries: Sequence[Entry], folder: Path) -> None:
    """Bring the records of the base image up to what the boot partition is now.

    FAT takes two spellings of a name for one: where a name differs only so from another one, or a folder was
    made, the whole partition is read.
    """
    boot, named = Partition.BOOT.value, _named(entries)
    spelled = {path.lower(): path for partition, path in records if partition == boot}
    removed, written = ({path.encode() for path in paths} for paths in (tree.removed, tree.written))
    written |= {path for path in named if path.lower() in spelled}
    if tree.new_folders or any(spelled.get(path.lower(), path) != path for path in removed | written):
        for key in [key for key in records if key[0] == boot]:
            del records[key]
        whole = folder / "boot"
        whole.mkdir()
        records |= digest.records_of(digest.walk_boot(tree.image, tree.offset, whole, named))
        return
    _forget(records, Partition.BOOT, removed)
    files_now = sorted(path.decode() for path in written)
    records |= digest.records_of(digest.boot_entries(tree.image, tree.offset, folder, files_now))


def _forget(records: Records, partition: Partition, removed: set[bytes]) -> None:
    if not removed:
        return
    below = tuple(path + b"/" for path in removed)
    gone = [
        key
        for key in records
        if key[0] == partition.value and (key[1] in removed or (below and key[1].startswith(below)))
    ]
    for key in gone:
        del records[key]


def _named(entries: Sequence[Entry]) -> frozenset[bytes]:
    return frozenset(entry.path.encode() for entry in entries if entry.kind is not Kind.REMOVE)


def _boot_paths(image: Path, boot: Slice) -> frozenset[str]:
    with raw_reader(image, _SECONDS) as reader:
        system = file_system(reader, boot.start, boot.size)
        paths = walk(system, lambda folder: True) if system else ()
        return frozenset(path.lower() for path, _ in paths)


def _check_file_system(image: Path, root: int, name: str) -> None:
    """Raise PiimgError unless e2fsck finds the root partition of ``image`` clean. Changes nothing."""
    try:
        ext4.check(image, root)
    except ToolError as error:
        raise PiimgError(
            f"the root file system of {name} is damaged",
            "it was undamaged before: check this machine's disk and memory",
        ) from error


def _store_blocks(work: Path, spans: Sequence[Span], target: Path) -> None:
    with files.replacing(target, 0o600) as file, work.open("rb") as source, file.open("r+b") as blocks:
        for start, end in spans:
            source.seek(start)
            blocks.write(source.read(end - start).ljust(end - start, b"\0"))


def _map(
    content: ImageContent, used: Sequence[Span], known: Known, check_stop: Callable[[], None]
) -> BlockMap:
    """The block map: a piece without changed blocks has the digest that it has in the base image."""
    changed = {
        start for low, high in content.spans for start in range(low // bmap.PIECE, -(-high // bmap.PIECE))
    }
    ranges = []
    with content.opened() as opened:
        for start, end in bmap.pieces(used):
            its = known.pieces.get((start, end), "") if start // bmap.PIECE not in changed else ""
            if not its:
                check_stop()
                data = bytearray(end - start)
                opened.read(start, memoryview(data))
                its = hashlib.sha256(data).hexdigest()
            ranges.append(Range(start, end, its))
    return BlockMap(content.size, bmap.BLOCK, "sha256", tuple(ranges))
