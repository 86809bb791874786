"""Examining a base image: would a node of it start, let its user in, and be as the manifest says?

Nothing is mounted, nothing of the image is run, every read is bounded: a hostile image gives findings only.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.release import BaseInfo, identify
from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.allocation import NotUnderstood, fat_geometry
from imagebuilder.image.base import account, leftovers, network, starting
from imagebuilder.image.base.findings import Finding
from imagebuilder.image.base.network import Interfaces
from imagebuilder.image.base.reader import BaseReader, UnreadableBase
from imagebuilder.image.partitions import SECTOR, Slice, Table, boot_and_root, read_table
from imagebuilder.image.untrusted import Damaged, OutputTooLarge
from imagebuilder.model import HOME
from imagebuilder.system.process import ToolError
from imagebuilder.text import printable

_LITTLE = 64 << 20  # bytes free in the root file system, below which a node can do little
_FEW = 2000  # inodes
_CORRECTED = ("free-counts", "not-clean")  # by e2fsck in each node image
_OLD_MTOOLS = 65525  # clusters; with fewer, mtools before 4.0.48 take no FAT32 for one


@dataclass(frozen=True)
class Examined:
    """What an examination found. ``table``, ``boot``, ``root`` and ``info`` are None where findings say why.

    ``home`` is the home of UID 1000; ``recount`` says that the counts of free blocks are to be set right.
    """

    findings: tuple[Finding, ...]
    table: Table | None = None
    boot: Slice | None = None
    root: Slice | None = None
    info: BaseInfo | None = None
    home: str = HOME

    @property
    def recount(self) -> bool:
        """Whether the root file system needs e2fsck before anything is put into it."""
        return any(one.name in _CORRECTED for one in self.findings)


def examine(file: Path, interfaces: Interfaces = None) -> Examined:
    """Examine the base image ``file``. ``interfaces`` are the manifest's; None stands for any.

    Raises PiimgError when the file cannot be read, or a program is missing.
    """
    try:
        table = read_table(file)
        boot, root = boot_and_root(table)
    except PiimgError as error:
        if not file.is_file():
            raise
        name = "cut-short" if "cut short" in error.message else "layout"
        return Examined((Finding(name, error.message, error.hint),))
    damage = (*_boot_damage(file, boot), *_root_damage(file, root))
    if any(one.name not in _CORRECTED for one in damage):
        return Examined(tuple(damage), table, boot, root)
    return _system(BaseReader(file, boot, root), table, damage, interfaces)


def _system(reader: BaseReader, table: Table, found: tuple[Finding, ...], interfaces: Interfaces) -> Examined:
    """BaseReader into both file systems, which are whole."""
    try:
        info = identify(reader.read, reader.boot_read)
    except UnreadableBase as error:
        return Examined((*found, _unreadable(error)), table, reader.boot, reader.root)
    except PiimgError as error:
        return Examined(
            (*found, Finding("release", error.message, error.hint)), table, reader.boot, reader.root
        )
    examinations: tuple[Callable[[], Iterable[Finding]], ...] = (
        lambda: starting.examine(reader, table, info.release),
        lambda: account.examine(reader, info.release),
        lambda: network.examine(reader, info.release, interfaces),
        lambda: leftovers.examine(reader),
        lambda: () if "free-counts" in {one.name for one in found} else _room(reader),
    )
    findings = [*found]
    home = HOME
    for one in examinations:
        try:
            findings += one()
        except UnreadableBase as error:
            findings.append(_unreadable(error))
    if not any(one.name in ("no-account", "no-home", "unreadable") for one in findings):
        home = account.home_of(account.account(reader))
    return Examined(tuple(dict.fromkeys(findings)), table, reader.boot, reader.root, info, home)


def _unreadable(error: UnreadableBase) -> Finding:
    return Finding("unreadable", error.message, error.hint)


def _boot_damage(file: Path, boot: Slice) -> Iterator[Finding]:
    try:
        fat.names(file, boot.start)
        return
    except Damaged as error:
        said = error.message.partition(": ")[2]
    clusters = _fat32_clusters(file, boot)
    if clusters is not None and clusters < _OLD_MTOOLS:
        yield Finding(
            "boot-mtools",
            f"the mtools here cannot read its boot partition, a FAT32 of only {clusters} clusters",
            "mtools 4.0.48 can, as Debian 13 has it; or make the boot partition anew with smaller clusters "
            "(mkfs.fat -F 32 -s 1)",
        )
    else:
        yield Finding(
            "boot-damaged",
            f"cannot read its boot partition: {said or 'it holds no FAT file system'}",
            "this copy of it is not whole: take another, or see what fsck.fat says of it",
        )


def _fat32_clusters(file: Path, boot: Slice) -> int | None:
    """How many clusters the boot partition's FAT32 has; None when it is none."""
    with file.open("rb") as stream:
        stream.seek(boot.start)
        sector = stream.read(SECTOR)
    try:
        shape = fat_geometry(sector.ljust(SECTOR, b"\0"), boot.size)
    except NotUnderstood:
        return None
    return shape.clusters if shape.wide else None


def _root_damage(file: Path, root: Slice) -> Iterator[Finding]:
    """What e2fsck and the superblock say. What is free it counts, and calls a wrong count no error."""
    try:
        said = ext4.check(file, root.start)
    except ToolError as error:
        yield _damage(error.stdout + error.stderr)
        return
    except OutputTooLarge:
        yield _damage(b"")
        return
    fields = ext4.superblock(file, root.start)
    if "needs_recovery" in fields.get("Filesystem features", "").split():
        yield Finding(
            "journal",
            "its root file system was not unmounted: what its journal holds was not written yet",
            f"let e2fsck do so, in the unpacked image: e2fsck -f -y 'IMAGE?offset={root.start}'",
        )
    if int(fields["Block count"]) * int(fields["Block size"]) > root.size:
        yield Finding(
            "root-larger",
            "its root file system is larger than the root partition",
            "take another copy of it, or shrink the file system with resize2fs",
        )
    state = fields.get("Filesystem state", "")
    if state != "clean":
        yield Finding(
            "not-clean",
            f"its root file system is marked as {printable(state)}, though nothing is wrong with it",
            "set right in each node image",
        )
    if re.search(rb"^Free (blocks|inodes) count wrong \(", said, re.MULTILINE):
        yield Finding(
            "free-counts",
            "its root file system counts what is free wrongly",
            "counted anew in each node image",
        )


def _damage(said: bytes) -> Finding:
    """The finding for a file system that e2fsck, which printed ``said``, does not call whole."""
    unknown = re.search(r"unsupported feature\(s\): *(.+)", said.decode("utf-8", "replace"))
    if unknown:
        return Finding(
            "root-features",
            "its root file system uses ext4 features that e2fsck here does not know: "
            f"{printable(unknown[1])}",
            "a newer e2fsprogs is needed: Raspberry Pi OS wants 1.47, as Debian 12 has it; see e2fsck -V",
        )
    return Finding(
        "root-damaged",
        "its root file system is damaged",
        "this copy of it is not whole: take another, or see what e2fsck -f says of it",
    )


def _room(reader: BaseReader) -> Iterator[Finding]:
    fields = ext4.superblock(reader.file, reader.root.start)
    free, inodes = int(fields["Free blocks"]) * int(fields["Block size"]), int(fields["Free inodes"])
    if free < _LITTLE or inodes < _FEW:
        yield Finding(
            "no-room",
            f"its root file system is all but full: {free >> 20} MiB and {inodes} files are free",
            "each node image is grown by what its overlay needs; what runs on a node may need more",
        )
