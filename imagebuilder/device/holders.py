"""Find the present uses of a disk: mounts, swap, devices on top of it, and programs that have it open.

Formats: proc(5) for /proc/self/mountinfo and /proc/swaps (blanks and other special characters are written as
three octal digits); Documentation/ABI for /sys/class/block (``slaves``, ``partition``, ``loop/backing_file``,
``dm/name``) and /sys/fs/btrfs/*/devices, which lists every device of a file system on several devices.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.system.openers import Opener, settled
from imagebuilder.system.process import run

OPEN_FOR_WRITING = "open for writing by"

_DESKTOP = ("/media/", "/run/media/")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class MountInfo:
    """One line of mountinfo: ``number`` is MAJOR:MINOR, ``source`` the mounted device, ``point`` its path."""

    number: str
    point: str
    kind: str
    source: str


@dataclass(frozen=True)
class DiskUses:
    """The block devices of the kernel and their uses, all by kernel name (``sdb2``, ``dm-0``).

    ``whole`` maps a partition to its disk; ``below`` a mapping, RAID set or loop device to the devices it is
    made of; ``title`` a device to its name for the user; ``numbers`` MAJOR:MINOR to a name. ``families`` are
    groups of devices that share one file system. ``openers`` are the programs that have a device open.
    """

    mounts: Sequence[MountInfo] = ()
    swaps: Sequence[str] = ()
    whole: Mapping[str, str] = field(default_factory=dict)
    below: Mapping[str, Sequence[str]] = field(default_factory=dict)
    title: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    families: Sequence[frozenset[str]] = ()
    openers: Mapping[str, Sequence[Opener]] = field(default_factory=dict)


@dataclass(frozen=True)
class Holding:
    """One use of ``device`` (a disk or partition, by kernel name); ``by`` describes the use in words.

    ``point`` is set for a mount; ``on_top`` is the mapping in between, if any. ``writer``: a program has it
    open for writing.
    """

    device: str
    by: str
    point: str = ""
    on_top: str = ""
    writer: bool = False

    @property
    def desktop(self) -> bool:
        """Whether a desktop mounted this automatically, so that it may be unmounted after the user agreed."""
        return not self.on_top and self.point.startswith(_DESKTOP)


def parse_mountinfo(text: str) -> list[MountInfo]:
    """The mounts in /proc/self/mountinfo. Lines that do not follow proc(5) are skipped."""
    return [mount for line in text.splitlines() if (mount := _mount(line)) is not None]


def _mount(line: str) -> MountInfo | None:
    head, dash, tail = line.partition(" - ")
    left, right = head.split(" "), tail.split(" ")
    if not dash or len(left) < 5 or len(right) < 2 or not re.fullmatch(r"\d+:\d+", left[2]):
        return None
    return MountInfo(left[2], _plain(left[4]), right[0], _plain(right[1]))


def parse_swaps(text: str) -> list[str]:
    """The swap partitions in /proc/swaps, by path. A swap file is covered by the mount of its file system."""
    fields = (line.split() for line in text.splitlines()[1:])
    return [_plain(words[0]) for words in fields if len(words) >= 2 and words[1] == "partition"]


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def holdings_of(disk: str, host: DiskUses) -> list[Holding]:
    """Every use of ``disk`` (a kernel name), of its partitions, and of devices on top of them. Pure.

    A disk that is made of another disk, such as a loop device over it, counts as in use: the user was not
    asked about the other disk.
    """
    made = [Holding(disk, f"made of another disk, {below}") for below in host.below.get(disk, ())]
    writers = [
        Holding(part, f"{OPEN_FOR_WRITING} {opener}", writer=True)
        for part, opener in _opened(disk, host)
        if _writes(opener)
    ]
    holdings = [*_mounted(disk, host), *_swapped(disk, host), *_built(disk, host), *made, *writers]
    return list(dict.fromkeys(holdings))


def notes_of(disk: str, host: DiskUses) -> list[str]:
    """The programs that have the disk or one of its partitions open and do not prevent writing to it.

    These are programs that only read, and programs that have it locked, such as another piimg: then opening
    it fails later.
    """
    return list(
        dict.fromkeys(
            f"{part} is {'in use' if opener.locked else 'open for reading'} by {opener}"
            for part, opener in _opened(disk, host)
            if not _writes(opener)
        )
    )


def _writes(opener: Opener) -> bool:
    return opener.writing and not opener.locked


def _opened(disk: str, host: DiskUses) -> Iterator[tuple[str, Opener]]:
    """The disk and its partitions, each with every program that has it open."""
    for name, programs in host.openers.items():
        if _is_part(name, disk, host):
            for opener in programs:
                yield name, opener


def _mounted(disk: str, host: DiskUses) -> Iterator[Holding]:
    for mount in host.mounts:
        for device in _devices(mount, host):
            for part, on_top in _ways_down(device, disk, host):
                yield Holding(part, f"mounted at {mount.point}", mount.point, on_top)


def _devices(mount: MountInfo, host: DiskUses) -> set[str]:
    """The devices of a mount. For a file system on several devices the kernel shows only one source."""
    name = host.numbers.get(mount.number) or Path(mount.source.split(":")[0]).name
    return set().union({name}, *(family for family in host.families if name in family))


def _swapped(disk: str, host: DiskUses) -> Iterator[Holding]:
    for swap in host.swaps:
        for part, on_top in _ways_down(Path(swap).name, disk, host):
            yield Holding(part, "used as swap", "", on_top)


def _built(disk: str, host: DiskUses) -> Iterator[Holding]:
    """Mappings, RAID sets and loop devices on the disk or on one of its partitions."""
    for name, parts in host.below.items():
        for part in parts:
            if _is_part(part, disk, host):
                yield Holding(part, f"held by {host.title.get(name, name)}", "", name)


def _is_part(device: str, disk: str, host: DiskUses) -> bool:
    return device == disk or host.whole.get(device) == disk


def _ways_down(
    device: str, disk: str, host: DiskUses, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Each part of ``disk`` (itself or a partition) that ``device`` is built on, and the device in between.

    ``above`` are the devices visited so far: data that was read while it changed could contain a cycle.
    """
    if _is_part(device, disk, host):
        yield device, ""
        return
    for below in host.below.get(host.whole.get(device, device), ()):
        if below in above:
            continue
        for part, _ in _ways_down(below, disk, host, (*above, device)):
            yield part, host.title.get(device, device)


def read_host(disks: Iterable[str] = ()) -> DiskUses:
    """Read the present uses of all block devices from the kernel.

    When one of ``disks`` is open for writing, the check is repeated for one second: some programs open a disk
    for writing only to examine it.
    """
    names = sorted(path.name for path in Path("/sys/class/block").iterdir())
    whole = {name: above for name in names if (above := _whole(name))}
    numbers = {_read(Path("/sys/class/block") / name / "dev").strip(): name for name in names}
    return DiskUses(
        mounts=parse_mountinfo(_read(Path("/proc/self/mountinfo"))),
        swaps=parse_swaps(_read(Path("/proc/swaps"))),
        whole=whole,
        below={name: below for name in names if (below := tuple(_below(name)))},
        title={name: _title(name) for name in names},
        numbers=numbers,
        families=tuple(_families(Path("/sys/fs/btrfs").glob("*/devices"))),
        openers=_openers(set(disks), whole, numbers),
    )


def _openers(
    disks: Collection[str], whole: Mapping[str, str], numbers: Mapping[str, str]
) -> Mapping[str, Sequence[Opener]]:
    """The programs that have each device open, by its kernel name."""
    numbers_to_check = {
        os.makedev(*map(int, number.split(":")))
        for number, name in numbers.items()
        if number and (name in disks or whole.get(name) in disks)
    }
    openers: dict[str, list[Opener]] = {}
    for opener in settled(numbers_to_check):
        name = numbers.get(f"{os.major(opener.rdev)}:{os.minor(opener.rdev)}")
        if name is not None:
            openers.setdefault(name, []).append(opener)
    return openers


def _whole(name: str) -> str:
    system = Path("/sys/class/block") / name
    return system.resolve().parent.name if (system / "partition").exists() else ""


def _below(name: str) -> Iterator[str]:
    system = Path("/sys/class/block") / name
    if (system / "slaves").is_dir():
        yield from sorted(path.name for path in (system / "slaves").iterdir())
    backing = Path(_read(system / "loop" / "backing_file").strip() or "/")
    with contextlib.suppress(OSError):  # the file system of the file is gone, which happens with FUSE
        if backing.is_block_device():
            yield backing.resolve().name


def _title(name: str) -> str:
    mapping = _read(Path("/sys/class/block") / name / "dm" / "name").strip()
    return f"{name} ({mapping})" if mapping else name


def _families(folders: Iterable[Path]) -> Iterator[frozenset[str]]:
    for folder in folders:
        yield frozenset(path.name for path in folder.iterdir())


def _read(path: Path) -> str:
    """The text of a kernel file, decoded like a path; empty when it cannot be read."""
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""


def unmount(holdings: Iterable[Holding]) -> None:
    """Unmount the file systems that a desktop mounted, the last first. Raises ToolError when one is busy."""
    for holding in reversed([holding for holding in holdings if holding.desktop]):
        run(["umount", "--", holding.point], hint="close all files on the card, then try again")
