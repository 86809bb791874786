"""Find cards that share one USB 2 bus, and order the jobs so that buses are loaded evenly. Pure.

A USB 2 link carries 480 Mbit/s, and with card readers behind it 25 to 40 MB/s in all. A reader is no faster
than the slowest link in its path, and all devices below one link share it. A USB 3 hub appears as two
devices, one on a USB 2 bus and one on a USB 3 bus: above a USB 3 link there is no USB 2 link.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from imagebuilder.device.discovery import Disk

USB_2 = 480  # Mbit/s, as in sysfs
CARRIES = (25_000_000, 40_000_000)  # bytes per second, for all cards behind one USB 2 link together


@dataclass(frozen=True)
class SharedLink:
    """Two or more cards behind one USB 2 link. ``at`` is the last device that is in the path of all."""

    at: str
    disks: tuple[Disk, ...]

    @property
    def what(self) -> str:
        """The shared device, in words."""
        if self.at.startswith("usb"):
            return f"one USB 2 bus ({self.at})"
        is_reader = all(disk.hops[-1].name == self.at for disk in self.disks)
        return f"one USB 2 {'reader' if is_reader else 'hub'} (usb {self.at})"


def shared_links(disks: Sequence[Disk]) -> list[SharedLink]:
    """The groups of two or more of ``disks`` that share a USB 2 link, in the order of their first disk."""
    behind: dict[str, list[Disk]] = {}
    for disk in disks:
        slow = next((hop.name for hop in disk.hops if 0 < hop.speed <= USB_2), None)
        if slow is not None:  # all disks below it share it, also through other hubs
            behind.setdefault(slow, []).append(disk)
    return [SharedLink(_last_common(group), tuple(group)) for group in behind.values() if len(group) > 1]


def _last_common(disks: Sequence[Disk]) -> str:
    first, *others = ([hop.name for hop in disk.hops] for disk in disks)
    return [name for name in first if all(name in names for names in others)][-1]


def seconds_through(count: int) -> tuple[float, float]:
    """The time for ``count`` bytes through one USB 2 link: the best and the worst case, in seconds."""
    slow, fast = CARRIES
    return count / fast, count / slow


def order_for_jobs(disks: Sequence[Disk]) -> list[Disk]:
    """``disks`` in the order of their jobs when not all are written at the same time.

    Every bus gets one job before any gets a second one; the same applies to the hubs on a bus and to the
    readers on a hub. So the cards that are written at the same time share as few links as possible.
    """
    return _spread(disks, 0)


def _spread(disks: Sequence[Disk], depth: int) -> list[Disk]:
    if len(disks) < 2 or all(len(disk.hops) < depth for disk in disks):
        return list(disks)
    groups: dict[str, list[Disk]] = {}
    for disk in disks:
        groups.setdefault(_branch(disk, depth), []).append(disk)
    rounds = zip_longest(*(_spread(group, depth + 1) for group in groups.values()))
    return list(_present(chain.from_iterable(rounds)))


def _branch(disk: Disk, depth: int) -> str:
    """The device at ``depth`` in the path of ``disk``; a disk without USB is in a group of its own."""
    if not disk.hops:
        return disk.number
    return disk.hops[depth].name if depth < len(disk.hops) else ""


def _present(disks: Iterator[Disk | None]) -> Iterator[Disk]:
    return (disk for disk in disks if disk is not None)


def same_reader(disk: Disk, other: Disk) -> bool:
    """Whether two disks are slots of one USB reader."""
    return bool(disk.hops) and disk.hops == other.hops and disk.number != other.number
