"""The scenarios in which a card is backed up: beside dd and zstd, and a card whose partition fills it."""

from collections.abc import Callable
from pathlib import Path

from bench.cards import CARD_SIZE, Rig, rig
from bench.context import CARD, Bench, check, measured, piimg
from bench.flashing import GB
from bench.images import Images
from bench.measure import Run
from imagebuilder.card.backup import BackupFiles
from imagebuilder.image import bmap
from imagebuilder.image.partitions import boot_and_root, read_table
from imagebuilder.system import files, loop
from imagebuilder.system.process import run as tool

_DD = """
set -o pipefail
dd if="$1" bs=4M count="$3" iflag=direct,count_bytes status=none | zstd -T0 -q -f -o "$2"
"""


def backup(bench: Bench) -> None:
    """A backup of a card, beside dd and zstd; and of a card whose root partition was grown to 32 GB."""
    made = bench.images()
    image = made.base
    size = image.stat().st_size
    target, other = bench.work / "backup.img.zst", bench.work / "dd.img.zst"
    try:
        with rig(bench.cards, [CARD], _copied(image)) as cards:
            command = ("bash", "-e", "-c", _DD, "dd", cards.devices[0], other, str(size))
            what = "dd and zstd -T0, the whole image"
            theirs = check(measured(bench, cards, "backup-dd", [command]), what)
            bench.add("backup-dd", what, theirs, size / GB, reference=CARD.seconds(0, size), to="reading all")
            ours = _backup(bench, made, cards, "backup", target)
            _judge(cards, target)
            packed = f"{target.stat().st_size >> 20} MiB packed; dd and zstd {other.stat().st_size >> 20}"
        used = _add(bench, "backup", "piimg backup, the same card", ours, target, packed)
        bench.aim("backup of a card", "of reading once", None, ours.seconds / CARD.seconds(0, used), 1.1)
        bench.aim("backup of a card", "of dd and zstd's time", None, ours.seconds / theirs.seconds, 0.6)
        with rig(bench.cards, [CARD], _grown(image)) as cards:
            ours = _backup(bench, made, cards, "backup-grown", target)
            _judge(cards, target)
        least = CARD.seconds(0, CARD_SIZE)
        note = f"dd: {least:.0f} s at best"
        _add(bench, "backup-grown", "piimg backup, grown to 32 GB", ours, target, note)
        bench.aim("backup of a card of 32 GB", "of dd's time at best", None, ours.seconds / least, 0.6)
    finally:
        for file in (*BackupFiles(target).all, other):
            file.unlink(missing_ok=True)


def _backup(bench: Bench, made: Images, cards: Rig, name: str, target: Path) -> Run:
    words = piimg(made, "backup", cards.devices[0], target, "--force")
    return check(measured(bench, cards, name, [words], env=made.env), f"piimg backup ({name})")


def _add(bench: Bench, name: str, what: str, done: Run, target: Path, note: str) -> int:
    """Add the row; gives the bytes in use."""
    used = bmap.read(BackupFiles(target).block_map).used
    bench.add(
        name, what, done, used / GB,
        reference=CARD.seconds(0, used), to="reading once", target=1.1,
        note=f"{used >> 20} MiB in use; {note}",
    )  # fmt: skip
    return used


def _judge(cards: Rig, target: Path) -> None:
    """Raise PiimgError unless zstd and bmaptool find that the backup is what is on the card."""
    block_map = BackupFiles(target).block_map
    tool(["zstd", "-tq", target])
    tool(["bmaptool", "copy", "--bmap", block_map, target, "/dev/null"])
    tool(["bmaptool", "copy", "--bmap", block_map, cards.devices[0], "/dev/null"])


def _copied(image: Path) -> Callable[[int, Path], None]:
    def prepare(index: int, file: Path) -> None:
        files.copy_sparse(image, file)

    return prepare


def _grown(image: Path) -> Callable[[int, Path], None]:
    """The image as after a first boot: its root partition and file system reach to the end of the card."""

    def prepare(index: int, file: Path) -> None:
        files.copy_sparse(image, file)
        with file.open("r+b") as stream:
            stream.truncate(CARD_SIZE)
        tool(["sfdisk", "--quiet", "--no-reread", "-N", "2", file], data=b",+\n")
        _, root = boot_and_root(read_table(file))
        with loop.attached(file, offset=root.start, size=root.size) as device:
            tool(["e2fsck", "-f", "-p", device], ok=(0, 1))
            tool(["resize2fs", device])

    return prepare
