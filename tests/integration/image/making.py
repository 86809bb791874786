"""Small images made by the real sfdisk, mkfs.vfat, mkfs.ext4, mtools and debugfs, for the tests."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.system.process import run

SECTOR = 512

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@dataclass(frozen=True)
class Made:
    """An image and where its two partitions lie, in bytes."""

    path: Path
    boot_at: int
    boot_size: int
    root_at: int
    root_size: int

    @property
    def boot(self) -> str:
        """The boot partition as mtools names it."""
        return f"{self.path}@@{self.boot_at}"

    @property
    def root(self) -> str:
        """The root partition as e2fsprogs names it."""
        return f"{self.path}?offset={self.root_at}"

    def dumped(self) -> str:
        """What dumpe2fs says of the root partition. From a copy: that of e2fsprogs 1.47.2 takes no offset."""
        with tempfile.NamedTemporaryFile() as copy, self.path.open("rb") as stream:
            stream.seek(self.root_at)
            copy.write(stream.read(self.root_size))
            copy.flush()
            return run(["dumpe2fs", copy.name]).stdout.decode()


def make_image(
    path: Path,
    *,
    boot_at: int = 2048,
    boot: int = 8192,
    gap: int = 0,
    root: int = 16384,
    tail: int = 0,
    fat: Sequence[str] = ("-F", "16", "-s", "1"),
    ext: Sequence[str] = ("-b", "1024"),
    disk_id: str = "5e3da3da",
) -> Made:
    """An image with a FAT and an ext4 partition; all sizes in sectors, ``tail`` in bytes behind the last."""
    root_at = boot_at + boot + gap
    with path.open("wb") as image:
        image.truncate((root_at + root) * SECTOR + tail)
    write_table(path, f"start={boot_at},size={boot},type=c\nstart={root_at},size={root},type=83\n", disk_id)
    with path.with_suffix(".fat").open("wb") as apart:
        apart.truncate(boot * SECTOR)
    run(["mkfs.vfat", "-n", "bootfs", *fat, path.with_suffix(".fat")])
    put(path, boot_at * SECTOR, path.with_suffix(".fat").read_bytes())
    path.with_suffix(".fat").unlink()
    where = f"offset={root_at * SECTOR}"
    run(["mkfs.ext4", "-q", "-F", "-L", "rootfs", *ext, "-E", where, path, f"{root * SECTOR // 1024}k"])
    return Made(path, boot_at * SECTOR, boot * SECTOR, root_at * SECTOR, root * SECTOR)


def write_table(path: Path, slices: str, disk_id: str = "5e3da3da", label: str = "dos") -> None:
    """Let sfdisk write a partition table; ``slices`` in its script language."""
    head = f"label: {label}\n" + (f"label-id: 0x{disk_id}\n" if label == "dos" else "")
    run(["sfdisk", "-q", "--no-tell-kernel", path], data=(head + slices).encode())


def put(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def cut_out(image: Path, offset: int, size: int, target: Path) -> Path:
    """A part of an image as a file of its own, for tools that know no offsets."""
    with image.open("rb") as stream:
        stream.seek(offset)
        target.write_bytes(stream.read(size))
    return target


def debugfs(made: Made, *commands: str) -> str:
    """Run debugfs commands that write to the root partition, or read from it; what they print."""
    done = run(["debugfs", "-w", "-f", "/dev/stdin", made.root], data="\n".join(commands).encode())
    return done.stdout.decode("utf-8", "surrogateescape")


def fill_boot(made: Made, folder: Path, files: Mapping[str, bytes]) -> None:
    """Copy files onto the boot partition; a name may hold one folder."""
    for name, content in files.items():
        host = folder / name
        host.parent.mkdir(parents=True, exist_ok=True)
        host.write_bytes(content)
    run(["mcopy", "-s", "-o", "-m", "-i", made.boot, *sorted(folder.iterdir()), "::/"])


@contextlib.contextmanager
def mounted_root(made: Made, point: Path, options: str = "rw") -> Iterator[Path]:
    """The root partition mounted by the kernel through a loop device; needs root."""
    point.mkdir(exist_ok=True)
    where = f"loop,offset={made.root_at},sizelimit={made.root_size},{options}"
    run(["mount", "-t", "ext4", "-o", where, made.path, point])
    try:
        yield point
    finally:
        run(["umount", point])
