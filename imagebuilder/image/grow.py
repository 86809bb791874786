"""Making room in a node image for what the overlay brings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4
from imagebuilder.image.partitions import Slice, boot_and_root, grow_root, read_table
from imagebuilder.model import Entry, Partition
from imagebuilder.system import files
from imagebuilder.system.process import ToolError, run

_MARGIN = 16 << 20  # bytes left free beside what the overlay needs
_MARGIN_INODES = 256  # inodes left free beside those of the overlay and the folders it makes
_STEP = 4 << 20  # bytes; an image grows in whole steps, as cards are erased in such units
_BLOCK = 4096


@dataclass(frozen=True)
class Space:
    """What is free in a root file system: bytes and inodes; and what a block group has of each."""

    free: int
    inodes: int
    group_size: int
    group_inodes: int


def space_in(image: Path, root: Slice) -> Space:
    """What is free in the root file system of ``image``."""
    fields = ext4.superblock(image, root.start)
    block = int(fields["Block size"])
    return Space(
        int(fields["Free blocks"]) * block,
        int(fields["Free inodes"]),
        int(fields["Blocks per group"]) * block,
        int(fields["Inodes per group"]),
    )


def make_room(image: Path, root: Slice, space: Space, entries: Sequence[Entry]) -> Slice:
    """Grow ``image`` and its root file system if ``entries`` need more than the ``space`` it has.

    Gives the root partition.

    The disk id and where the partitions start stay. Raises PiimgError when there is no room to grow.
    """
    more = max(_need(entries) + _MARGIN - space.free, 0)
    inodes = len(entries) + _MARGIN_INODES - space.inodes
    if inodes > 0:  # inodes come with block groups
        more = max(more, -(-inodes // space.group_inodes) * space.group_size)
    if not more:
        return root
    grown = root.end + more * 21 // 20  # a twentieth more, for the inode tables of new groups
    grow_root(image, -(-grown // _STEP) * _STEP)
    _, larger = boot_and_root(read_table(image))
    _resize(image, root, larger)
    return larger


def recount(image: Path, root: Slice) -> None:
    """Set right what the root file system of ``image`` counts as free. Raises PiimgError if damaged."""
    try:
        ext4.check(image, root.start, fix=True)
    except ToolError as error:
        raise PiimgError(
            f"e2fsck cannot set the root file system right: {error.message}", "see what e2fsck -f says of it"
        ) from error


def _resize(image: Path, root: Slice, larger: Slice) -> None:
    """Grow the file system of ``root`` to the size of ``larger``.

    resize2fs knows no offset into a file, and an ordinary user has no loop devices: so it works on a copy
    of the partition alone, which is sparse, as the image is.
    """
    with files.scratch(image) as folder:
        alone = folder / "root"
        try:
            with image.open("r+b") as whole, alone.open("w+b") as part:
                files.copy_range(whole, part, root.start, 0, root.size)
                part.truncate(larger.size)
                run(["e2fsck", "-f", "-p", alone], ok=(0, 1))
                run(["resize2fs", alone])
                # What became a hole must not keep old blocks; root is the last partition of the image.
                whole.truncate(root.start)
                whole.truncate(larger.end)
                files.copy_range(part, whole, 0, root.start, larger.size)
        except ToolError as error:
            raise PiimgError(f"cannot grow the root file system: {error.message}", error.hint) from error
        except OSError as error:
            raise PiimgError(
                f"cannot grow {image.name}: {error.strerror}", "free some room, or choose another folder"
            ) from error


def _need(entries: Sequence[Entry]) -> int:
    """Bytes the entries take at most: whole blocks, an inode and a directory block each."""
    contents = (len(entry.content) for entry in entries if entry.partition is Partition.ROOT)
    return sum(-(-size // _BLOCK) * _BLOCK + 2 * _BLOCK for size in contents)
