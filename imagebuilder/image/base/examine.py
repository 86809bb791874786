"""Examination of a base image: can its nodes boot, can the user log in, does the manifest apply?

Nothing is mounted and no program of the image is run. Every read is bounded, so that a hostile image only
causes findings.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.release import BaseInfo, identify
from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.allocation import NotUnderstood
from imagebuilder.image.base import account, leftovers, network, starting
from imagebuilder.image.base.findings import Finding
from imagebuilder.image.base.network import Interfaces
from imagebuilder.image.base.reader import BaseReader, UnreadableBase
from imagebuilder.image.partitions import (
    CutShort,
    Slice,
    Table,
    TableError,
    boot_and_root,
    read_table,
)
from imagebuilder.image.untrusted import Damaged, OutputTooLarge
from imagebuilder.model import HOME
from imagebuilder.system.process import ToolError
from imagebuilder.text import printable

_LITTLE = 64 << 20  # bytes; less free space in the root file system causes a warning
_FEW = 2000  # inodes; fewer free inodes cause a warning
_CORRECTED = ("free-counts", "not-clean")  # by e2fsck in each node image
_OLD_MTOOLS = 65525  # clusters; mtools before 4.0.48 do not recognize a FAT32 with fewer


_LOOKED_AT = (
    "/etc/NetworkManager/NetworkManager.conf", "/etc/NetworkManager/conf.d",
    "/etc/NetworkManager/system-connections", "/etc/fstab", "/etc/machine-id", "/etc/netplan",
    "/etc/network/interfaces", "/etc/network/interfaces.d", "/etc/os-release", "/etc/passwd",
    "/etc/systemd/network", "/etc/systemd/system", "/etc/systemd/system/NetworkManager.service",
    "/etc/systemd/system/ssh.service", "/etc/udev/rules.d", "/home/pi",
    "/lib/systemd/system/NetworkManager.service", "/lib/systemd/system/ssh.service", "/usr/lib/os-release",
    "/usr/lib/systemd/system/NetworkManager.service", "/usr/lib/systemd/system/ssh.service",
    "/usr/sbin/NetworkManager", "/usr/sbin/sshd", "/var/lib/dbus/machine-id", "/var/lib/dpkg/arch",
    "/var/lib/systemd/credential.secret", "/var/lib/systemd/random-seed",
)  # fmt: skip
"""What most examinations look at. To read it in one go takes a fifth of the time."""


@dataclass(frozen=True)
class Examined:
    """The result of an examination. ``table``, ``boot``, ``root`` and ``info`` are None if unreadable.

    A finding then says why. ``home`` is the home of UID 1000.
    """

    findings: tuple[Finding, ...]
    table: Table | None = None
    boot: Slice | None = None
    root: Slice | None = None
    info: BaseInfo | None = None
    home: str = HOME

    @property
    def recount(self) -> bool:
        """Whether e2fsck must correct the root file system before entries are injected."""
        return any(finding.name in _CORRECTED for finding in self.findings)


def examine(file: Path, interfaces: Interfaces = None, name: str = "") -> Examined:
    """Examine the base image ``file``. ``interfaces`` are those of the manifest; None means any.

    ``name`` is the user's name for it, if it is not that of the file. Raises Damaged when a superblock
    cannot be read although its file system was undamaged, and another PiimgError when the file cannot be
    read or a program is missing.
    """
    try:
        table = read_table(file)
        boot, root = boot_and_root(table)
    except PiimgError as error:
        if not file.is_file():
            raise
        kind = "cut-short" if isinstance(error, CutShort) else "layout"
        sentence = f"it {error.problem}" if isinstance(error, TableError) else error.message
        return Examined((Finding(kind, sentence, error.hint),))
    reader = BaseReader(file, boot, root, name or str(file))
    damage = (*_boot_damage(file, boot), *_root_damage(reader))
    if any(finding.name not in _CORRECTED for finding in damage):
        return Examined(tuple(damage), table, boot, root)
    return _system(reader, table, damage, interfaces)


def _system(reader: BaseReader, table: Table, found: tuple[Finding, ...], interfaces: Interfaces) -> Examined:
    """Examine the system in both file systems, which are undamaged."""
    reader.learn_all(_LOOKED_AT)
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
        lambda: () if "free-counts" in {finding.name for finding in found} else _free_space(reader),
    )
    findings = [*found]
    home = HOME
    for examination in examinations:
        try:
            findings += examination()
        except UnreadableBase as error:
            findings.append(_unreadable(error))
    if not any(finding.name in ("no-account", "no-home", "unreadable") for finding in findings):
        home = account.home_of(account.account(reader))
    return Examined(tuple(dict.fromkeys(findings)), table, reader.boot, reader.root, info, home)


def _unreadable(error: UnreadableBase) -> Finding:
    return Finding("unreadable", error.message, error.hint)


def _boot_damage(file: Path, boot: Slice) -> Iterator[Finding]:
    try:
        fat.names(file, boot.start)
        return
    except Damaged as error:
        problem = error.problem
    clusters = _fat32_clusters(file, boot)
    if clusters is not None and clusters < _OLD_MTOOLS:
        yield Finding(
            "boot-mtools",
            f"the installed mtools cannot read its boot partition, a FAT32 of only {clusters} clusters",
            "install mtools 4.0.48 or newer (Debian 13), or recreate the boot partition with smaller "
            "clusters (mkfs.fat -F 32 -s 1)",
        )
    else:
        yield Finding(
            "boot-damaged",
            problem,
            "this copy is damaged: get another one, or check it with fsck.fat",
        )


def _fat32_clusters(file: Path, boot: Slice) -> int | None:
    """The number of clusters of the boot partition; None if it is not FAT32."""
    try:
        shape = fat.geometry(file, boot.start, boot.size)
    except NotUnderstood:
        return None
    return shape.clusters if shape.wide else None


def _root_damage(reader: BaseReader) -> Iterator[Finding]:
    """The findings of e2fsck and the superblock. e2fsck does not treat wrong free counts as an error."""
    file, root = reader.file, reader.root
    try:
        output = ext4.check(file, root.start)
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
            "its root file system was not unmounted: its journal has not been replayed",
            f"let e2fsck replay it in the unpacked image: e2fsck -f -y '{reader.name}?offset={root.start}'",
        )
    if int(fields["Block count"]) * int(fields["Block size"]) > root.size:
        yield Finding(
            "root-larger",
            "its root file system is larger than the root partition",
            "get another copy, or shrink the file system with resize2fs",
        )
    state = fields.get("Filesystem state", "")
    if state != "clean":
        yield Finding(
            "not-clean",
            f"its root file system is marked as {printable(state)}, but it is undamaged",
            "corrected in each node image",
        )
    if re.search(rb"^Free (blocks|inodes) count wrong \(", output, re.MULTILINE):
        yield Finding(
            "free-counts",
            "its root file system has wrong counts of free blocks or inodes",
            "corrected in each node image",
        )


def _damage(output: bytes) -> Finding:
    """The finding for a root file system that failed e2fsck, which printed ``output``."""
    unknown = re.search(r"unsupported feature\(s\): *(.+)", output.decode("utf-8", "replace"))
    if unknown:
        return Finding(
            "root-features",
            "its root file system uses ext4 features that the installed e2fsck does not know: "
            f"{printable(unknown[1])}",
            "install a newer e2fsprogs: Raspberry Pi OS needs 1.47 (Debian 12); see e2fsck -V",
        )
    return Finding(
        "root-damaged",
        "its root file system is damaged",
        "this copy is damaged: get another one, or check it with e2fsck -f",
    )


def _free_space(reader: BaseReader) -> Iterator[Finding]:
    fields = ext4.superblock(reader.file, reader.root.start)
    free, inodes = int(fields["Free blocks"]) * int(fields["Block size"]), int(fields["Free inodes"])
    if free < _LITTLE or inodes < _FEW:
        yield Finding(
            "no-room",
            f"its root file system is almost full: {free >> 20} MiB and {inodes} inodes are free",
            "each node image is grown as its overlay needs; programs on the node may need more",
        )
