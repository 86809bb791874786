"""Making the image file: partition table, FAT32 by mtools, ext4 by mke2fs and debugfs; never a mount."""

import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from bases.layout import BOOT_LABEL, MIB, ROOT_LABEL, SECTOR, Layout
from bases.tree import Attributes, Staging
from imagebuilder.errors import PiimgError
from imagebuilder.system.process import run

BLOCK = 4096  # bytes; of the root file system
JOURNAL = 8  # MiB; the published images have a larger one, which would only make small images slower to flash
DEFAULT_MODES = {stat.S_IFDIR: 0o755, stat.S_IFREG: 0o644, stat.S_IFLNK: 0o777}
_NAMESPACE = uuid.UUID("8f3d3c54-5a4b-4d43-9a43-7069696d6721")


def make(image: Path, layout: Layout, staging: Staging, root_sectors: int) -> None:
    """Make ``image`` (replaced if it exists) with both partitions filled from ``staging``.

    The file is sparse. Raises PiimgError when a tool is missing or fails.
    """
    with image.open("wb") as stream:
        stream.truncate((layout.root_start + root_sectors) * SECTOR)
    _partition(image, layout, root_sectors)
    _fill_boot(image, layout, staging.boot)
    _fill_root(image, layout, staging.root, root_sectors)


def set_attributes(image: Path, layout: Layout, staging: Staging) -> None:
    """Set the mode, owner and times of every path of the root partition, as no user but root could by chown.

    Paths that ``staging.attributes`` does not name belong to root: folders 0755, files 0644.
    """
    commands = "".join(_attribute_commands(staging, layout.epoch))
    done = run(
        ["debugfs", "-w", "-f", "-", f"{image}?offset={layout.root_start * SECTOR}"],
        data=commands.encode(),
        env=_clock(layout),
    )
    complaints = done.stderr.decode().splitlines()[1:]  # the first line is debugfs's version
    if complaints:  # its exit status is 0 whatever happens
        raise PiimgError(f"debugfs: {complaints[0]}", "please report this with the command you ran")


def zero(image: Path, layout: Layout, path: str) -> None:
    """Fill the blocks of the file ``path`` with zeros: in use all the same, though holes in the image file.

    ``mke2fs -d`` would make a hole of every block of zeros in the file itself.
    """
    device = f"{image}?offset={layout.root_start * SECTOR}"
    blocks = run(["debugfs", "-R", f'blocks "{path}"', device]).stdout.split()
    with image.open("r+b") as stream:
        for block in blocks:
            stream.seek(layout.root_start * SECTOR + int(block) * BLOCK)
            stream.write(bytes(BLOCK))
    run(["fallocate", "--dig-holes", image])


def stamp(staging: Staging, epoch: int) -> None:
    """Give everything staged the same time, in seconds since 1970."""
    for folder in (staging.root, staging.boot):
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (epoch, epoch), follow_symlinks=False)


def check(image: Path, layout: Layout) -> None:
    """Raises PiimgError when e2fsck or fsck.fat find anything wrong with ``image``."""
    run(["e2fsck", "-fn", f"{image}?offset={layout.root_start * SECTOR}"])
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        boot = Path(folder) / "boot"  # fsck.fat knows no offset
        cut = [f"skip={layout.boot_start}", f"count={layout.boot_sectors}", f"bs={SECTOR}"]
        run(["dd", f"if={image}", f"of={boot}", "conv=sparse", *cut])
        run(["fsck.fat", "-n", boot])


def _attribute_commands(staging: Staging, epoch: int) -> Iterator[str]:
    for path in (staging.root, *sorted(staging.root.rglob("*"))):
        name = str("/" / path.relative_to(staging.root))
        kind = stat.S_IFMT(path.lstat().st_mode)
        given = staging.attributes.get(name, Attributes(DEFAULT_MODES[kind], 0, 0))
        yield f'sif "{name}" mode 0{kind | given.mode:o}\n'
        yield f'sif "{name}" uid {given.uid}\n'
        yield f'sif "{name}" gid {given.gid}\n'
        for when in ("atime", "ctime", "mtime"):
            yield f'sif "{name}" {when} @{epoch}\n'


def _clock(layout: Layout) -> dict[str, str]:
    return {"E2FSPROGS_FAKE_TIME": str(layout.epoch), "SOURCE_DATE_EPOCH": str(layout.epoch)}


def _partition(image: Path, layout: Layout, root_sectors: int) -> None:
    table = (
        f"label: dos\nlabel-id: 0x{layout.disk_id:08x}\n"
        f"start={layout.boot_start}, size={layout.boot_sectors}, type=c\n"
        f"start={layout.root_start}, size={root_sectors}, type=83\n"
    )
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", image], data=table.encode())


def _fill_boot(image: Path, layout: Layout, folder: Path) -> None:
    """FAT32, as pi-gen's ``mkdosfs -F 32 -s 4``, from 2026-03-27 on ``-s 1``."""
    kibibytes = layout.boot_sectors * SECTOR // 1024
    made = [
        "-F",
        "32",
        "-s",
        str(layout.cluster),
        "-n",
        BOOT_LABEL,
        "--invariant",
        "-i",
        f"{layout.disk_id:08x}",
    ]
    place = ["-h", str(layout.boot_start), "--offset", str(layout.boot_start)]
    run(["mkfs.fat", *made, *place, image, str(kibibytes)])
    entries = sorted(folder.iterdir())
    if entries:
        target = f"{image}@@{layout.boot_start * SECTOR}"
        run(["mcopy", "-s", "-m", "-Q", "-i", target, *entries, "::/"], env=_clock(layout))


def _fill_root(image: Path, layout: Layout, folder: Path, root_sectors: int) -> None:
    """ext4 with the features given one by one, so that the host's mke2fs.conf has no say."""
    blocks = root_sectors * SECTOR // BLOCK
    hash_seed = uuid.uuid5(_NAMESPACE, layout.name)
    extended = f"offset={layout.root_start * SECTOR},hash_seed={hash_seed},lazy_itable_init=1,root_owner=0:0"
    made = ["-t", "ext4", "-O", layout.ext4_features, "-b", str(BLOCK), "-I", "256", "-i", "16384", "-m", "5"]
    named = ["-L", ROOT_LABEL, "-U", layout.root_uuid, "-J", f"size={JOURNAL}", "-E", extended]
    run(["mke2fs", "-q", "-F", *made, *named, "-d", folder, image, str(blocks)], env=_clock(layout))


def sectors(size: int) -> int:
    """Sectors that hold ``size`` bytes, rounded up to whole MiB."""
    return -(-size // MIB) * MIB // SECTOR
