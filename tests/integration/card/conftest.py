"""Node images of a few MiB, and virtual cards: real loop devices over sparse files."""

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imagebuilder.card.source import ImageSource, open_source
from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.image import allocation, bmap
from imagebuilder.system import loop
from imagebuilder.system.process import run
from tests.integration.card import rig
from tests.integration.card.faults import Bench
from tests.integration.card.running import NODES, TOP

if TYPE_CHECKING:
    from tests.integration.card.verifying import Built

MIB = 1 << 20
BOOT, BOOT_SIZE = 4 * MIB, 16 * MIB  # bytes
ROOT, ROOT_SIZE = 20 * MIB, 28 * MIB
CARD_SIZE = 32 * 10**9
_ADD, _DELETE = 1, 2  # BLKPG_…_PARTITION
_TABLE = b"label: dos\nlabel-id: 0x9f8e7d6c\nstart=4MiB,size=16MiB,type=c\nstart=20MiB,type=83\n"


CLUSTER = "picluster"


def make_image(image: Path, node: str) -> Path:
    """An image laid out like Raspberry Pi OS, with files in both partitions and its block map beside it."""
    files = image.parent / f"{image.stem}-files"
    files.mkdir()
    (files / "hostname").write_text(f"{node}\n")
    (files / "noise").write_bytes(os.urandom(3 * MIB))
    (files / "zeros").write_bytes(bytes(MIB))
    (files / "piimg.json").write_text(json.dumps({"node": node, "cluster": CLUSTER}))
    image.touch()
    os.truncate(image, ROOT + ROOT_SIZE)
    (files / "etc").mkdir()
    (files / "etc" / "hostname").write_text(f"{node}\n")
    run(["sfdisk", "--quiet", image], data=_TABLE)
    sectors, kib = str(BOOT // 512), str(BOOT_SIZE // 1024)
    run(["mkfs.vfat", "-F", "16", "--offset", sectors, image, kib])
    run(["mcopy", "-i", f"{image}@@{BOOT}", files / "piimg.json", files / "noise", "::"])
    run(["mkfs.ext4", "-q", "-E", f"offset={ROOT}", "-d", files, image, f"{ROOT_SIZE // 1024}k"])
    bmap.write(image.with_suffix(".bmap"), bmap.make(image, allocation.used_ranges(image)))
    return image


def manifest() -> str:
    """The manifest of three nodes."""
    return "[[node]]".join((TOP / "manifests" / "picluster.toml").read_text().split("[[node]]")[:4])


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the node images of master, worker1 and worker2. Read only: copy what you change."""
    folder, digest = tmp_path_factory.mktemp("images"), hashlib.sha256(manifest().encode()).hexdigest()
    for node in ("master", "worker1", "worker2"):
        make_image(folder / f"{node}.img", node)
        left_last = {"node": node, "cluster": CLUSTER, "tree_digest": "0" * 64, "manifest_digest": digest}
        (folder / f"{node}.json").write_text(json.dumps(left_last))
    return folder


@pytest.fixture
def source(images: Path) -> ImageSource:
    """The node image of worker1."""
    return open_source(images / "worker1.img")


MakeCard = Callable[..., Disk]
MakePart = Callable[[Disk], Path]


@pytest.fixture
def root() -> None:
    """Root: nobody else may attach loop devices."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")


@pytest.fixture(autouse=True)
def no_loop_device_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test did, none of its files has a loop device afterwards."""
    yield
    held = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            held += [backing.parts[3]] if backing.read_text().startswith(f"{tmp_path}/") else []
    assert held == []


@pytest.fixture
def make_card(tmp_path: Path, root: None) -> Iterator[MakeCard]:
    """``make_card()`` is a virtual card of 32 GB."""
    with ExitStack() as stack:
        count = 0

        def made(*, size: int = CARD_SIZE, read_only: bool = False) -> Disk:
            nonlocal count
            count += 1
            file = tmp_path / f"card{count}"
            file.touch()
            os.truncate(file, size)
            device = stack.enter_context(loop.attached(file, read_only=read_only, direct_io=True))
            return disk_at(device)

        yield made


@pytest.fixture
def card(make_card: MakeCard) -> Disk:
    """One virtual card of 32 GB."""
    return make_card()


@pytest.fixture
def make_partitioned() -> Iterator[MakePart]:
    """``make_partitioned(card)`` gives a virtual card a partition known to the kernel, and its device file.

    The kernel may lack the code that reads an MBR, so the partition is announced to it.
    """
    with ExitStack() as stack:

        def made(card: Disk) -> Path:
            _allow_partitions(card.node)
            _announce(card.node, _ADD, 8192, 65536)
            stack.callback(_announce, card.node, _DELETE)
            part = Path(f"{card.node}p1")
            run(["mkfs.ext4", "-q", part])
            return part

        yield made


def _announce(device: Path, operation: int, start: int = 0, count: int = 0) -> None:
    """Tell the kernel that partition 1 is there, or no more; in sectors (BLKPG of linux/blkpg.h)."""
    part = ctypes.create_string_buffer(struct.pack("=qqi64s64x4x", start * 512, count * 512, 1, b""))
    with device.open("rb") as stream:
        asked = struct.pack("@iiiP", operation, 0, len(part), ctypes.addressof(part))
        fcntl.ioctl(stream.fileno(), 0x1269, asked)


def _allow_partitions(device: Path) -> None:
    """Allow a loop device to have partitions: LOOP_SET_STATUS64 with LO_FLAGS_PARTSCAN (linux/loop.h)."""
    with device.open("rb") as stream:
        status = bytearray(fcntl.ioctl(stream.fileno(), 0x4C05, bytes(232)))
        flags = int.from_bytes(status[52:56], "little")
        status[52:56] = (flags | 8).to_bytes(4, "little")
        fcntl.ioctl(stream.fileno(), 0x4C04, bytes(status))


@contextmanager
def mounted(device: Path, point: Path) -> Iterator[Path]:
    """Mount ``device`` at ``point``, a folder made for it."""
    point.mkdir()
    run(["mount", device, point])
    try:
        yield point
    finally:
        if os.path.ismount(point):
            run(["umount", point])
        point.rmdir()


@pytest.fixture
def make_faulty(tmp_path: Path, root: None) -> Iterator[rig.Rig]:
    """``make_faulty(fault="lost-write", at=BYTE)`` is a card of 64 MiB that has this fault at that byte."""
    rig.require()
    with ExitStack() as stack:
        yield rig.Rig(tmp_path, stack)


@pytest.fixture
def bench(make_faulty: rig.Rig, make_card: MakeCard, source: ImageSource) -> Bench:
    """Faulty cards, each flashed together with a sound one."""
    return Bench(make_faulty, make_card, source)


@pytest.fixture
def cluster(images: Path, tmp_path: Path) -> Path:
    """A cluster folder of three nodes, all of them built."""
    folder = tmp_path / "cluster"
    (folder / "build").mkdir(parents=True)
    (folder / "cluster.toml").write_text(manifest())
    for node in NODES:
        for suffix in (".img", ".bmap", ".json"):
            (folder / "build" / f"{node}{suffix}").symlink_to(images / f"{node}{suffix}")
    return folder


@pytest.fixture(scope="session")
def worker(specimen: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> "Built":
    """worker1 built on trixie, flashed and booted. Read only: copy a card to change it."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    from tests.integration.card.verifying import build  # it imports from here

    return build(tmp_path_factory.mktemp("verify"), specimen("trixie"))


def copy_to(image: Path, medium: Path) -> None:
    """Write an image to the start of a card's file."""
    run(["dd", f"if={image}", f"of={medium}", "bs=1M", "conv=notrunc,sparse", "status=none"])


@pytest.fixture
def used_card(make_card: MakeCard, images: Path, tmp_path: Path) -> Disk:
    """A card of 32 GB that was flashed with worker1, and has deleted files in its free blocks."""
    image = tmp_path / "worker1.img"
    shutil.copy(images / "worker1.img", image)
    (tmp_path / "deleted").write_bytes(b"deleted!" * (MIB // 4))
    for line in (f"write {tmp_path / 'deleted'} deleted", "rm deleted"):
        run(["debugfs", "-w", "-R", line, f"{image}?offset={ROOT}"])
    assert image.read_bytes().count(b"deleted!") > MIB // 8
    disk = make_card()
    copy_to(image, Path(disk.backing))
    return disk


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """The folder for backups."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"
