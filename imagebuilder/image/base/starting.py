"""Would a node of this base image find its root file system, and grow it? cmdline.txt and fstab."""

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.image import ext4
from imagebuilder.image.base.findings import Finding
from imagebuilder.image.base.reader import BaseReader, UnreadableBase
from imagebuilder.image.partitions import Slice, Table
from imagebuilder.model import Release
from imagebuilder.text import printable

_PARTUUID = re.compile(r"PARTUUID=([0-9a-f]{8})-([0-9a-f]{2})", re.IGNORECASE)
_ESCAPE = re.compile(r"\\([0-7]{3})")
_GROWING = re.compile(rb"resize|init=\S*/(?:firstboot|init_resize\.sh)")
_PSEUDO = ("proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "swap", "none")
_MOUNTS = 100  # lines of fstab; nobody has as many
_DISKS = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/")


@dataclass(frozen=True)
class FstabLine:
    """A line of fstab(5): what is mounted (``spec``), where, as which type, with which options."""

    spec: str
    place: str
    type: str
    options: tuple[str, ...]


def words_of(command_line: bytes) -> tuple[bytes, ...]:
    """The words of cmdline.txt. Pure."""
    return tuple(command_line.split())


def mounts_of(content: bytes) -> tuple[FstabLine, ...]:
    """The lines of an fstab that mount something; what is no such line is passed over. Pure."""
    mounts = []
    for line in content.decode("utf-8", "replace").split("\n"):
        fields = line.split()
        if len(fields) >= 2 and not fields[0].startswith("#"):
            spec, place, kind, options = [*fields, "auto", "defaults"][:4] if len(fields) < 4 else fields[:4]
            mounts.append(FstabLine(_unescaped(spec), _unescaped(place), kind, tuple(options.split(","))))
    return tuple(mounts)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8) & 0xFF), text)


def examine(reader: BaseReader, table: Table, release: Release) -> Iterator[Finding]:
    """The findings of cmdline.txt and fstab."""
    content = reader.boot_read("/cmdline.txt") or b""
    mounts = mounts_of(reader.read("/etc/fstab") or b"")
    if len(mounts) > _MOUNTS:
        raise UnreadableBase(f"/etc/fstab mounts more than {_MOUNTS} things", "is this base image whole?")
    line = content.rstrip(b"\r\n \t")
    if b"\n" in line or not line or b"\0" in line:
        yield Finding(
            "command-line",
            "cmdline.txt is not one line of text, and the firmware reads only the first line",
            "make it one line",
        )
        return
    words = words_of(line)
    names = _Names(reader, table)
    yield from _foreign_disk_id(words, mounts, table)
    yield from _root_name(words, names)
    yield from _fstab(mounts, release, names)
    if not any(_GROWING.fullmatch(word) for word in words):
        yield Finding(
            "no-growth",
            "no word of cmdline.txt grows the root partition on the first boot: was the image booted before?",
            f"where a node is to use its whole card, add the word {release.facts.growth_word} to cmdline.txt",
        )


@dataclass(frozen=True)
class _Names:
    """The names by which the two partitions may be called."""

    reader: BaseReader
    table: Table

    def fits(self, spec: str, which: Slice) -> bool:
        """Whether ``spec`` calls the partition ``which`` of a card with this table."""
        kind, _, value = spec.partition("=")
        match kind:
            case "PARTUUID":
                return value.lower() == f"{self.table.disk_id}-{which.number:02x}"
            case "UUID":
                return value.lower() in self._identities(which, "Filesystem UUID")
            case "LABEL":
                return which.number == self.reader.boot.number or value in self._identities(
                    which, "Filesystem volume name"
                )
            case _:
                return re.fullmatch(rf"/dev/(mmcblk\d+p|sd[a-z]){which.number}|/dev/root", spec) is not None

    def _identities(self, which: Slice, field: str) -> tuple[str, ...]:
        if which.number == self.reader.root.number:
            return (ext4.superblock(self.reader.file, which.start).get(field, ""),)
        return (fat_serial(self.reader.file, which.start),)


def fat_serial(file: Path, start: int) -> str:
    """The serial number of the FAT32 file system at ``start`` bytes, as blkid(8) has it: ``abcd-0123``.

    Microsoft's "FAT: General Overview of On-Disk Format" 1.03: BS_VolID, 4 bytes at 67 of the boot sector.
    """
    with file.open("rb") as stream:
        stream.seek(start + 67)
        raw = stream.read(4)
    (serial,) = struct.unpack("<I", raw.ljust(4, b"\0"))
    return f"{serial >> 16:04x}-{serial & 0xFFFF:04x}"


def _foreign_disk_id(words: Iterable[bytes], mounts: Iterable[FstabLine], table: Table) -> Iterator[Finding]:
    """The kernel waits for ever for a root that is not there; systemd 90 s for what fstab names."""
    said = [("cmdline.txt", word.decode("utf-8", "replace")) for word in words if word.startswith(b"root=")]
    said += [("fstab", one.spec) for one in mounts if one.place in ("/", "/boot", "/boot/firmware")]
    named = [(place, found[1].lower()) for place, spec in said if (found := _PARTUUID.search(spec))]
    foreign = dict.fromkeys((place, its) for place, its in named if its != table.disk_id)
    if not foreign:
        return
    where = " and ".join(f"{place} names {its}" for place, its in [*foreign][:3])
    ids = {its for _, its in named}
    both = len(ids) == 1
    yield Finding(
        "disk-id",
        f"its disk id is {table.disk_id}, but {where}: a node would not find its root file system",
        f"give the image that id back: sfdisk --disk-id IMAGE 0x{min(ids)}"
        if both
        else f"write {table.disk_id} into PARTUUID= of cmdline.txt and /etc/fstab",
    )


def _root_name(words: Iterable[bytes], names: _Names) -> Iterator[Finding]:
    roots = [word[5:].decode("utf-8", "replace") for word in words if word.startswith(b"root=")]
    if not roots:
        yield Finding(
            "root-name",
            "cmdline.txt does not say which partition is the root: it has no root=",
            f"add root=PARTUUID={names.table.disk_id}-{names.reader.root.number:02x} to it",
        )
        return
    last = roots[-1]  # the kernel heeds the last of several
    foreign = _PARTUUID.fullmatch(last)
    if not names.fits(last, names.reader.root) and not (
        foreign and foreign[1].lower() != names.table.disk_id  # reported as disk-id
    ):
        yield Finding(
            "root-name",
            f"cmdline.txt has root={printable(last)}, which is not the image's root partition",
            f"write root=PARTUUID={names.table.disk_id}-{names.reader.root.number:02x} there",
        )


def _fstab(mounts: Iterable[FstabLine], release: Release, names: _Names) -> Iterator[Finding]:
    reader = names.reader
    ours = {"/": reader.root, "/boot": reader.boot, release.facts.boot_mount: reader.boot}
    needed = {
        "/": "the root file system: it would stay read-only",
        release.facts.boot_mount: "the boot partition: a first boot could not read its settings",
    }
    for place in [one for one in needed if one not in {mount.place for mount in mounts}]:
        yield Finding(
            "fstab-missing",
            f"/etc/fstab does not mount {needed[place]}",
            f"add a line for PARTUUID={names.table.disk_id}-{ours[place].number:02x} at {place} to it",
        )
    for one in mounts:
        foreign = _PARTUUID.fullmatch(one.spec)
        if one.place in ours and foreign and foreign[1].lower() != names.table.disk_id:
            continue  # reported as disk-id
        if one.place in ours and not names.fits(one.spec, ours[one.place]):
            yield Finding(
                "root-name",
                f"/etc/fstab mounts {printable(one.spec)} at {one.place}, which is not the image's "
                "own partition",
                f"write PARTUUID={names.table.disk_id}-{ours[one.place].number:02x} there",
            )
        if one.place in ours or one.type in _PSEUDO or not one.spec.startswith(_DISKS):
            continue
        if {"nofail", "noauto"} & set(one.options):
            continue
        yield Finding(
            "fstab-device",
            f"/etc/fstab mounts {printable(one.spec)} at {printable(one.place)}: "
            "a node without it stops in emergency mode, where nobody can log in over the network",
            "add the option nofail to that line, or take it out",
        )
