"""Growth of a node image to make space for the overlay."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4
from imagebuilder.image.partitions import Slice, boot_and_root, grow_root, read_table
from imagebuilder.model import Entry, Partition
from imagebuilder.system import files
from imagebuilder.system.process import ToolError, run

_MARGIN = 16 << 20  # bytes left free in addition to the overlay's
_MARGIN_INODES = 256  # inodes left free in addition to those of the overlay and its folders
_STEP = 4 << 20  # bytes; an image grows in multiples, as cards are erased in such units
_BLOCK = 4096


@dataclass(frozen=True)
class Space:
    """Free space of a root file system, in bytes and inodes, and the size of a block group in both."""

    free: int
    inodes: int
    group_size: int
    group_inodes: int


def space_in(image: Path, root: Slice) -> Space:
    """The free space in the root file system of ``image``."""
    fields = ext4.superblock(image, root.start)
    block = int(fields["Block size"])
    return Space(
        int(fields["Free blocks"]) * block,
        int(fields["Free inodes"]),
        int(fields["Blocks per group"]) * block,
        int(fields["Inodes per group"]),
    )


def make_room(image: Path, root: Slice, space: Space, entries: Sequence[Entry]) -> Slice:
    """Grow ``image`` and its root file system if ``entries`` need more than the free ``space``.

    Returns the root partition. The disk id and the starts of the partitions stay. Raises PiimgError when the
    image cannot grow.
    """
    return grow(image, root, space, *_wanted(entries))


def grow(image: Path, root: Slice, space: Space, free: int, free_inodes: int) -> Slice:
    """Grow ``image`` and its root file system to ``free`` bytes and ``free_inodes`` inodes that are free.

    Returns the root partition, which is unchanged if ``space`` has as much. Raises PiimgError.
    """
    more = _missing(space, free, free_inodes)
    if not more:
        return root
    grown = root.end + more * 21 // 20  # a twentieth more, for the inode tables of new groups
    grow_root(image, -(-grown // _STEP) * _STEP)
    _, larger = boot_and_root(read_table(image))
    _resize(image, root, larger)
    return larger


def needed_room(space: Space, entries: Sequence[Entry]) -> int:
    """The bytes by which a root file system with the free ``space`` must grow for ``entries``; 0 if none."""
    return _missing(space, *_wanted(entries))


def _wanted(entries: Sequence[Entry]) -> tuple[int, int]:
    """The bytes and the inodes that must be free for ``entries``."""
    return _need(entries) + _MARGIN, len(entries) + _MARGIN_INODES


def _missing(space: Space, free: int, free_inodes: int) -> int:
    more = max(free - space.free, 0)
    inodes = free_inodes - space.inodes
    if inodes > 0:  # inodes come with block groups
        more = max(more, -(-inodes // space.group_inodes) * space.group_size)
    return more


def recount(image: Path, root: Slice) -> None:
    """Correct the free counts of the root file system of ``image``. Raises PiimgError if it is damaged."""
    try:
        ext4.check(image, root.start, fix=True)
    except ToolError as error:
        raise PiimgError(
            f"e2fsck cannot correct the root file system: {error.message}", "check it with e2fsck -f"
        ) from error


def _resize(image: Path, root: Slice, larger: Slice) -> None:
    """Grow the file system of ``root`` to the size of ``larger``.

    resize2fs accepts no offset into a file, and an ordinary user has no loop devices. So it works on a sparse
    copy of the partition.
    """
    with files.scratch(image) as folder:
        alone = folder / "root"
        try:
            with image.open("r+b") as whole, alone.open("w+b") as part:
                files.copy_range(whole, part, root.start, 0, root.size)
                part.truncate(larger.size)
                run(["e2fsck", "-f", "-p", alone], ok=(0, 1))
                run(["resize2fs", alone])
                # New holes must not keep old blocks; root is the last partition of the image.
                whole.truncate(root.start)
                whole.truncate(larger.end)
                files.copy_range(part, whole, 0, root.start, larger.size)
        except ToolError as error:
            raise PiimgError(f"cannot grow the root file system: {error.message}", error.hint) from error
        except OSError as error:
            raise PiimgError(
                f"cannot grow {image.name}: {error.strerror}", "free some space, or choose another folder"
            ) from error


def _need(entries: Sequence[Entry]) -> int:
    """The most bytes that the entries can need: whole blocks, an inode and a directory block each."""
    contents = (len(entry.content) for entry in entries if entry.partition is Partition.ROOT)
    return sum(-(-size // _BLOCK) * _BLOCK + 2 * _BLOCK for size in contents)
