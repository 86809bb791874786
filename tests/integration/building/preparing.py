"""Preparing nodes within the test's own process, and injecting into a full copy of the base: the long way."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from imagebuilder.events import Silent
from imagebuilder.image.allocation import used_ranges
from imagebuilder.image.base.opening import Base, open_base
from imagebuilder.image.build import write_image
from imagebuilder.image.digest import Records
from imagebuilder.image.grow import make_room, space_in
from imagebuilder.image.inject import inject
from imagebuilder.image.partitions import boot_and_root, read_table
from imagebuilder.image.prepare import Bench, bench, fitted_recipe, prepare_node
from imagebuilder.image.prepared import PreparedFiles, PreparedNode
from imagebuilder.image.tree import BootTree, root_tree
from imagebuilder.model import Entry, NodePlan, Partition, Release
from imagebuilder.system import mount
from imagebuilder.system.files import copy_sparse, data_ranges
from tests.support import judge
from tests.support.cluster import Place
from tests.support.trees import records_in

ODD = "/mnt/caf\udce9"  # a folder with a name that is not UTF-8
CAPABILITY = b"\1\0\0\2" + bytes(16)  # linux/capability.h, vfs_cap_data of revision 2


def furnished(specimen: Path, target: Path) -> Path:
    """A copy of a specimen, with what overlays can trip over."""
    copy_sparse(specimen, target)
    _, root = boot_and_root(read_table(target))
    with mount.ext4(target, root.start, root.size) as point:
        (point / "etc/twin").write_bytes(b"one\ntwo\n" * 4000)
        os.link(point / "etc/twin", point / "usr/share/twin")
        (point / "etc/labelled").write_bytes(b"label\n")
        os.setxattr(point / "etc/labelled", "user.note", b"n" * 900)
        os.setxattr(point / "etc/labelled", "security.capability", CAPABILITY)
        (point / "etc/labelled").chmod(0o4750)
        (point / "var/zeros").write_bytes(bytes(50_000))
        (point / "var/large").write_bytes(os.urandom(1 << 20) * 6)
        (point / ODD[1:]).mkdir()
        (point / ODD[1:] / "there").write_bytes(b"there\n")
        (point / "srv/odd").symlink_to(".." + ODD)
        (point / "srv/here").symlink_to("/opt")
    return target


def remade(base: Path, target: Path, folder: Path, *options: str) -> Path:
    """A copy of ``base`` with its tree in a root file system that mkfs.ext4 made with ``options``."""
    copy_sparse(base, target)
    _, root = boot_and_root(read_table(base))
    with mount.ext4(base, root.start, root.size, read_only=True) as point:
        alone = folder / "alone"
        with alone.open("wb") as stream:
            stream.truncate(root.size)
        judge.said("mkfs.ext4", "-q", "-F", "-L", "rootfs", *options, "-d", point, alone)
    with alone.open("rb") as source, target.open("r+b") as whole:
        whole.truncate(root.start)
        whole.truncate(root.end)
        whole.seek(root.start)
        while piece := source.read(1 << 20):
            if piece.strip(b"\0"):
                whole.write(piece)
            else:
                whole.seek(len(piece), os.SEEK_CUR)
    alone.unlink()
    return target


def opened(image: Path) -> Base:
    """The base image, examined and indexed."""
    with image.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return open_base(image, image.name, digest, Silent())


class Preparer:
    """Prepares nodes from one base image, of the cluster folder ``place``, into ``folder``."""

    def __init__(self, base: Base, place: Place, folder: Path, shared: Bench) -> None:
        self.base, self.folder, self.shared = base, folder, shared
        self.cluster = place.workspace.cluster

    def plan(self, entries: Sequence[Entry], node: str = "worker1") -> NodePlan:
        """A plan with these entries and no others."""
        release: Release = self.base.info.release
        return NodePlan(self.cluster.node(node), release, (), tuple(entries))

    def prepare(self, entries: Sequence[Entry], node: str = "worker1") -> PreparedNode:
        """Prepare a node with these entries. Raises PiimgError."""
        plan, recipe = fitted_recipe(self.cluster, self.plan(entries, node), self.base)
        place = PreparedFiles(self.folder, node)
        stop = threading.Event()
        return prepare_node(self.cluster, plan, recipe, self.shared, place, Silent(), stop)


@contextlib.contextmanager
def preparer(image: Path, place: Place, folder: Path) -> Iterator[Preparer]:
    """A Preparer for nodes from the base image ``image``."""
    base = opened(image)
    folder.mkdir(exist_ok=True)
    with bench(base, folder, Silent()) as shared:
        yield Preparer(base, place, folder, shared)


def injected(base: Base, entries: Sequence[Entry], target: Path) -> Path:
    """A full copy of the base image with ``entries`` injected: neither template nor changed blocks."""
    copy_sparse(base.file, target)
    root = make_room(target, base.root, space_in(target, base.root), entries)
    mtime = base.date
    by_partition = {
        part: [entry for entry in entries if entry.partition is part]
        for part in (Partition.BOOT, Partition.ROOT)
    }
    inject(BootTree(target, base.boot.start), by_partition[Partition.BOOT], mtime)
    with mount.ext4(target, root.start, root.size) as point, root_tree(point, point) as tree:
        inject(tree, by_partition[Partition.ROOT], mtime)
    return target


def check(prepared: PreparedNode, base: Base, entries: Sequence[Entry], folder: Path) -> Records:
    """The prepared node is, block by block and file by file, what a full copy of the base becomes.

    Gives the record of each path.
    """
    image = write_image(prepared, folder).results.image
    judge.check_file_systems(image, folder)
    wanted = records_in(injected(base, entries, folder / "injected.img"), entries)
    assert records_in(image, entries) == wanted
    records = b"".join(wanted[key] for key in sorted(wanted))
    assert hashlib.sha256(records).hexdigest() == prepared.tree_digest == prepared.document["tree_digest"]
    check_blocks(prepared, base, image)
    return wanted


def check_blocks(prepared: PreparedNode, base: Base, image: Path) -> None:
    """The content of a prepared node is that of the whole ``image``, with every block in use; and the image
    has nothing else that the base does not have."""
    used = used_ranges(image)
    size = image.stat().st_size
    assert size == prepared.content.size == prepared.block_map.image_size
    assert joined([(one.start, one.end) for one in prepared.block_map]) == joined(used)
    with image.open("rb") as whole, prepared.content.opened() as content:
        for one in prepared.block_map:
            whole.seek(one.start)
            data, read = whole.read(one.size), bytearray(one.size)
            content.read(one.start, memoryview(read))
            assert data == read, f"bytes {one.start} to {one.end}"
            assert hashlib.sha256(data).hexdigest() == one.digest, f"bytes {one.start} to {one.end}"
    changed = bytearray(size // 4096 + 1)
    for start, end in prepared.content.spans:
        changed[start // 4096 : -(-end // 4096)] = b"\1" * (-(-end // 4096) - start // 4096)
    with image.open("rb") as whole, base.file.open("rb") as original:
        ranges = (*data_ranges(whole.fileno(), 0, size), *data_ranges(original.fileno(), 0, size))
        for at in sorted({at for low, high in ranges for at in range(low >> 20 << 20, high, 1 << 20)}):
            ours, its = os.pread(whole.fileno(), 1 << 20, at), os.pread(original.fileno(), 1 << 20, at)
            its = its.ljust(len(ours), b"\0")
            for block in range(0, len(ours), 4096) if ours != its else ():
                same = ours[block : block + 4096] == its[block : block + 4096]
                assert same or changed[(at + block) // 4096], f"byte {at + block} is of no changed block"


def joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """``spans``, in order, joined where they touch."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


def entry(path: str, kind: str, **more: object) -> Entry:
    """An entry; ``path`` begins with ``boot/`` or ``root/``."""
    from imagebuilder.model import Kind

    partition, _, rest = path.partition("/")
    made = Entry(Partition(partition), f"/{rest}", Kind(kind), "test", source="the test")
    return replace(made, **more)  # type: ignore[arg-type]
