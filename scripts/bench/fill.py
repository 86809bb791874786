"""A base image with the layout of Raspberry Pi OS and real files in it."""

import random
import shutil
import sys
from pathlib import Path

from imagebuilder.image import allocation
from imagebuilder.image.partitions import boot_and_root, grow_root, read_table
from imagebuilder.system import loop, mount
from imagebuilder.system.process import run as tool

MIB = 1 << 20  # bytes
RELEASE = "trixie"

_FILES = Path("/usr")  # real files to fill the image with
_FILLER = 32 * MIB  # bytes; left for noise, which brings the sum to what is wanted
_SMALL = 16 << 10  # bytes; most files of a system are not larger


def make_base(image: Path, size: int, used: int, count: int) -> None:
    """Make a base image of ``size`` bytes, ``used`` of them in use, with about ``count`` files."""
    maker = Path(__file__).resolve().parents[1] / "make-specimen"
    tool([sys.executable, maker, RELEASE, image])
    grow_root(image, size)
    _, root = boot_and_root(read_table(image))
    with loop.attached(image, offset=root.start, size=root.size) as device:
        tool(["e2fsck", "-f", "-p", device], ok=(0, 1))
        tool(["resize2fs", device])
    room = used - _used(image)
    with mount.ext4(image, root.start, root.size) as point:
        _copy_files(point / "srv" / "files", room - _FILLER, count)
    room = used - _used(image)
    with mount.ext4(image, root.start, root.size) as point, (point / "srv" / "noise").open("wb") as noise:
        source = random.Random(room)
        for start in range(0, room, MIB):
            noise.write(source.randbytes(min(MIB, room - start)))


def _used(image: Path) -> int:
    """Bytes in use. While a partition is mounted all of it counts as in use."""
    return sum(end - start for start, end in allocation.used_ranges(image))


def _copy_files(target: Path, room: int, count: int) -> None:
    """Copy regular files of this system until they take ``room`` bytes: small ones, five of six of ``count``,
    then larger ones, both in the order of their names."""
    sizes = {
        path: path.stat().st_size
        for path in sorted(_FILES.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    small = [path for path, size in sizes.items() if size <= _SMALL][: count * 5 // 6]
    for path in (*small, *(path for path, size in sizes.items() if size > _SMALL)):
        room -= -(-sizes[path] // 4096) * 4096
        if room < 0:
            return
        copy = target / path.relative_to(_FILES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
