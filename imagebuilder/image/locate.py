"""Location of a byte of an image: the file that contains it, to report where a card is bad.

It is found by debugfs (icheck, ncheck, stats) for ext4, and by mdir and mshowfat of mtools for FAT.
"""

import re
import struct
from collections.abc import Mapping
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image import allocation, ext4, fat
from imagebuilder.image.partitions import LINUX_TYPE, Slice
from imagebuilder.text import printable

SUPERBLOCK = "the superblock"

_SECONDS = 300.0  # for a run of debugfs, which reads all inodes to find the owner of a block

_INODES: Mapping[int, str] = {  # inodes without a name (linux/ext4.h, EXT4_…_INO)
    2: "/",
    3: "the quotas",
    4: "the quotas",
    7: "the reserved group descriptors",
    8: "the journal",
}


def file_at(image: Path, part: Slice, offset: int) -> str:
    """The path of the file that owns the byte at ``offset`` of the image, in its partition ``part``.

    A description if the byte is metadata ("the inode table"); "" if the owner is not known: a free block, an
    unknown file system, an offset outside ``part``. A file of several names is reported by the first. Never
    raises PiimgError, because the location only complements another error.
    """
    if not part.start <= offset < part.end:
        return ""
    try:
        if part.type == LINUX_TYPE:
            return _ext4(image, part.start, offset - part.start)
        return _fat(image, part, offset - part.start)
    except (PiimgError, allocation.NotUnderstood, OSError, ValueError, KeyError, struct.error):
        return ""


def _ext4(image: Path, start: int, place: int) -> str:
    """The owner of byte ``place`` of the ext4 file system at ``start``."""
    fields = ext4.superblock(image, start)
    block = place // int(fields["Block size"])
    found = re.search(rf"^{block}\t(\d+)$", _debugfs(image, start, f"icheck {block}"), re.MULTILINE)
    if not found:
        return _metadata(image, start, block, fields)
    number = int(found[1])
    return _INODES.get(number) or _names(_debugfs(image, start, f"ncheck {number}"), number)


def _names(said: str, number: int) -> str:
    """The first name of an inode in the output of ncheck: a line each, but names may contain line feeds."""
    names = re.findall(rf"^{number}\t(.*?)(?=\n{number}\t|\n?\Z)", said, re.MULTILINE | re.DOTALL)
    return printable(min(f"/{name.lstrip('/')}" for name in names)) if names else ""


def _metadata(image: Path, start: int, block: int, fields: Mapping[str, str]) -> str:
    """The kind of metadata in a block that belongs to no inode; "" if the block is free."""
    place = (block - int(fields["First block"])) % int(fields["Blocks per group"])  # in its group
    if block == int(fields["First block"]):  # it may be 0, which debugfs does not take
        return SUPERBLOCK
    if "marked in use" not in _debugfs(image, start, f"testb {block}"):
        return ""
    for what, first in re.findall(r"(\w+ (?:bitmap|table)) at (\d+)", _debugfs(image, start, "stats")):
        count = int(fields["Inode blocks per group"]) if what == "inode table" else 1
        if int(first) <= block < int(first) + count:
            return f"the {what}"
    return SUPERBLOCK if place == 0 else "the group descriptors"


def _debugfs(image: Path, start: int, command: str) -> str:
    (said,) = ext4.debugfs(image, start, [command], seconds=_SECONDS)
    return said.decode("utf-8", "replace")


def _fat(image: Path, part: Slice, place: int) -> str:
    """The owner of byte ``place`` of the FAT file system in ``part``."""
    shape = fat.geometry(image, part.start, part.size)
    if place < shape.tables[0]:
        return "the boot sector"
    if place < shape.data:
        return "/" if place >= shape.tables[-1] + shape.table else "the file allocation table"
    cluster = (place - shape.data) // shape.cluster + 2
    where = fat.place(part.start)
    listed = fat.mtools(["mdir", "-/", "-a", "-b", "-i", where, "::"], image, ok=(0, 1)).decode(
        "utf-8", "replace"
    )
    # mtools reads names as patterns, and finds nothing for "a[1]"; it still reports the others.
    names = [name.rstrip("/") for name in listed.splitlines()]
    said = fat.mtools(["mshowfat", "-i", where, "::/", *names], image, ok=(0, 1)).decode("utf-8", "replace")
    for line in said.splitlines():
        name, _, chain = line.partition(" <")
        runs = re.findall(r"(\d+)(?:-(\d+))?>", chain)
        if any(int(first) <= cluster <= int(last or first) for first, last in runs):
            return printable("/" + name.removeprefix("::").strip("/"))
    return ""
