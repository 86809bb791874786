"""Examination of a base image: cmdline.txt and fstab, which name and grow the root file system."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imagebuilder.image import ext4, fat
from imagebuilder.image.base.findings import Finding
from imagebuilder.image.base.reader import BaseReader, UnreadableBase
from imagebuilder.image.partitions import Slice, Table
from imagebuilder.image.untrusted import DAMAGED_BASE
from imagebuilder.model import Release
from imagebuilder.text import printable

_PARTUUID = re.compile(r"PARTUUID=([0-9a-f]{8})-([0-9a-f]{2})", re.IGNORECASE)
_ESCAPE = re.compile(r"\\([0-7]{3})")
_GROWING = re.compile(rb"resize|init=\S*/(?:firstboot|init_resize\.sh)")
_PSEUDO = ("proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "swap", "none")
_MOUNTS = 100  # lines of fstab; more are refused
_DISKS = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/")


@dataclass(frozen=True)
class FstabLine:
    """A line of fstab(5): device (``spec``), mount point (``place``), type and options."""

    spec: str
    place: str
    type: str
    options: tuple[str, ...]


def words_of(command_line: bytes) -> tuple[bytes, ...]:
    """The words of cmdline.txt. No I/O."""
    return tuple(command_line.split())


def mounts_of(content: bytes) -> tuple[FstabLine, ...]:
    """The mounts of an fstab; other lines are skipped. No I/O."""
    mounts = []
    for line in content.decode("utf-8", "replace").split("\n"):
        fields = line.split()
        if len(fields) >= 2 and not fields[0].startswith("#"):
            spec, place, kind, options = [*fields, "auto", "defaults"][:4] if len(fields) < 4 else fields[:4]
            mounts.append(FstabLine(_unescaped(spec), _unescaped(place), kind, tuple(options.split(","))))
    return tuple(mounts)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8) & 0xFF), text)


def examine(reader: BaseReader, table: Table, release: Release) -> Iterator[Finding]:
    """The findings about cmdline.txt and fstab."""
    content = reader.boot_read("/cmdline.txt") or b""
    mounts = mounts_of(reader.read("/etc/fstab") or b"")
    if len(mounts) > _MOUNTS:
        raise UnreadableBase(f"/etc/fstab has more than {_MOUNTS} mounts", DAMAGED_BASE)
    line = content.rstrip(b"\r\n \t")
    if b"\n" in line or not line or b"\0" in line:
        yield Finding(
            "command-line",
            "cmdline.txt is not a single line of text; the firmware reads only the first line",
            "put all words of cmdline.txt on one line",
        )
        return
    words = words_of(line)
    names = _Names(reader, table)
    yield from _foreign_disk_id(words, mounts, table, reader.name)
    yield from _root_name(words, names)
    yield from _fstab(mounts, release, names)
    if not any(_GROWING.fullmatch(word) for word in words):
        yield Finding(
            "no-growth",
            "no word of cmdline.txt grows the root partition on the first boot; it was booted before",
            f"add the word {release.facts.growth_word} to cmdline.txt if nodes are to use their whole card",
        )


@dataclass(frozen=True)
class _Names:
    """The valid names of the two partitions in cmdline.txt and fstab."""

    reader: BaseReader
    table: Table

    def fits(self, spec: str, which: Slice) -> bool:
        """Whether ``spec`` names the partition ``which`` of a card with this table."""
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
        return (fat.serial(self.reader.file, which.start),)


def _foreign_disk_id(
    words: Iterable[bytes], mounts: Iterable[FstabLine], table: Table, name: str
) -> Iterator[Finding]:
    """The finding about a foreign disk id in the image ``name``, with which the kernel waits forever for its
    root."""
    specs = [("cmdline.txt", word.decode("utf-8", "replace")) for word in words if word.startswith(b"root=")]
    specs += [("fstab", mount.spec) for mount in mounts if mount.place in ("/", "/boot", "/boot/firmware")]
    named = [(place, match[1].lower()) for place, spec in specs if (match := _PARTUUID.search(spec))]
    foreign = dict.fromkeys((place, disk_id) for place, disk_id in named if disk_id != table.disk_id)
    if not foreign:
        return
    where = " and ".join(f"{place} names {disk_id}" for place, disk_id in [*foreign][:3])
    ids = {disk_id for _, disk_id in named}
    both = len(ids) == 1
    yield Finding(
        "disk-id",
        f"its disk id is {table.disk_id}, but {where}: a node would not find its root file system",
        f"restore that id in the image: sfdisk --disk-id {name} 0x{min(ids)}"
        if both
        else f"write {table.disk_id} into PARTUUID= of cmdline.txt and /etc/fstab",
    )


def _root_name(words: Iterable[bytes], names: _Names) -> Iterator[Finding]:
    roots = [word[5:].decode("utf-8", "replace") for word in words if word.startswith(b"root=")]
    if not roots:
        yield Finding(
            "root-name",
            "cmdline.txt does not name the root partition: it has no root=",
            f"add root=PARTUUID={names.table.disk_id}-{names.reader.root.number:02x} to it",
        )
        return
    last = roots[-1]  # of several, the kernel uses the last
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
    own = {"/": reader.root, "/boot": reader.boot, release.facts.boot_mount: reader.boot}
    needed = {
        "/": "the root file system: it would stay read-only",
        release.facts.boot_mount: "the boot partition: a first boot could not read its settings",
    }
    for place in [place for place in needed if place not in {mount.place for mount in mounts}]:
        yield Finding(
            "fstab-missing",
            f"/etc/fstab does not mount {needed[place]}",
            f"add a line for PARTUUID={names.table.disk_id}-{own[place].number:02x} at {place} to it",
        )
    for mount in mounts:
        foreign = _PARTUUID.fullmatch(mount.spec)
        if mount.place in own and foreign and foreign[1].lower() != names.table.disk_id:
            continue  # reported as disk-id
        if mount.place in own and not names.fits(mount.spec, own[mount.place]):
            yield Finding(
                "root-name",
                f"/etc/fstab mounts {printable(mount.spec)} at {mount.place}, which is not the image's "
                "own partition",
                f"write PARTUUID={names.table.disk_id}-{own[mount.place].number:02x} there",
            )
        if mount.place in own or mount.type in _PSEUDO or not mount.spec.startswith(_DISKS):
            continue
        if {"nofail", "noauto"} & set(mount.options):
            continue
        yield Finding(
            "fstab-device",
            f"/etc/fstab mounts {printable(mount.spec)} at {printable(mount.place)}: "
            "a node without it stops in emergency mode, without login over the network",
            "add the option nofail to that line, or remove the line",
        )
