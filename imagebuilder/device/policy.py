"""May this disk be written to? Every reason against it, as a type and in words. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import Holding
from imagebuilder.errors import DeviceError, UsageError

LARGEST = 2 * 10**12  # bytes; SDXC ends at 2 TB, and what is larger is somebody's disk

_SYSTEM = ("/", "/boot", "/boot/firmware", "/boot/efi", "/usr", "/var", "/home")


class Reason(StrEnum):
    """The kinds of reasons against writing to a disk."""

    LOOP = auto()
    CACHED = auto()
    VIRTUAL = auto()
    BUILT_IN = auto()
    FIXED = auto()
    NO_MEDIUM = auto()
    TOO_LARGE = auto()
    TOO_SMALL = auto()
    READ_ONLY = auto()
    SYSTEM = auto()
    IN_USE = auto()
    OPEN_FOR_WRITING = auto()  # by a program; the only use that ends with that program


_TEXTS = {
    Reason.LOOP: "it is a loop device, which only --virtual admits",
    Reason.CACHED: "the host caches its file, so nothing could be verified:"
    " attach it with losetup --direct-io=on",
    Reason.VIRTUAL: "it is no card but a device made by this system",
    Reason.BUILT_IN: "it is built in (eMMC), not a card",
    Reason.FIXED: "it is not removable ({} disk)",
    Reason.NO_MEDIUM: "there is no medium in it",
    Reason.TOO_LARGE: "it is larger than any card: {}",
    Reason.TOO_SMALL: "it is too small: {}",
    Reason.READ_ONLY: "it is write-protected",
    Reason.SYSTEM: "this system runs from it: it holds {}",
    Reason.IN_USE: "{}",
    Reason.OPEN_FOR_WRITING: "{}",
}
"""The text of each reason; ``{}`` stands for its detail."""


@dataclass(frozen=True)
class Refusal:
    """One reason why a disk may not be written to; ``str`` gives its text, which names the ``detail``."""

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return _TEXTS[self.reason].replace("{}", self.detail)


class DiskRefused(DeviceError, UsageError):
    """A disk may not be written to, for the reasons in ``refusals``."""

    def __init__(self, disk: Disk, refusals: Sequence[Refusal], holdings: Sequence[Holding]) -> None:
        super().__init__(disk.node, f"is not written to: {in_words(refusals)}", _hint(refusals, holdings))
        self.refusals = tuple(refusals)


def in_words(refusals: Sequence[Refusal]) -> str:
    """All reasons in one line."""
    return "; ".join(map(str, refusals))


def refusals(
    disk: Disk, holdings: Sequence[Holding], need: int | None = None, virtual: bool = False
) -> tuple[Refusal, ...]:
    """Why ``disk`` may not be written to; empty when it may.

    ``need`` is the size of the node image in bytes, if it is known; ``virtual`` admits loop devices. What a
    desktop mounted by itself is no reason: it is unmounted once the user agreed.
    """
    found = kind(disk, virtual)
    if not disk.has_medium:
        return (*found, Refusal(Reason.NO_MEDIUM))
    if disk.size > LARGEST:
        found.append(Refusal(Reason.TOO_LARGE, f"{disk.size / 1e12:.1f} TB"))
    if need is not None and disk.size < need:
        sizes = f"{disk.size} bytes, and the node image has {need} ({need - disk.size} more)"
        found.append(Refusal(Reason.TOO_SMALL, sizes))
    if disk.read_only:
        found.append(Refusal(Reason.READ_ONLY))
    return (*found, *_uses(holdings))


def kind(disk: Disk, virtual: bool) -> list[Refusal]:
    """Why a disk is no card at all, whatever is in it."""
    if disk.driver == "loop":
        found = [] if virtual else [Refusal(Reason.LOOP)]
        return found if disk.direct or not disk.has_medium else [*found, Refusal(Reason.CACHED)]
    if disk.driver == "virtual":
        return [Refusal(Reason.VIRTUAL)]
    if disk.driver == "mmc":
        return [] if disk.sd else [Refusal(Reason.BUILT_IN)]
    return [] if disk.removable else [Refusal(Reason.FIXED, disk.driver)]


def _uses(holdings: Sequence[Holding]) -> list[Refusal]:
    system = [one for one in holdings if one.point in _SYSTEM]
    if system:
        return [Refusal(Reason.SYSTEM, ", ".join(dict.fromkeys(one.point for one in system)))]
    return [
        Refusal(
            Reason.OPEN_FOR_WRITING if one.writer else Reason.IN_USE,
            f"{one.device} is {one.by}" + (f" through {one.on_top}" if one.on_top and one.point else ""),
        )
        for one in holdings
        if not one.desktop
    ]


def check(disk: Disk, holdings: Sequence[Holding], need: int | None, virtual: bool) -> None:
    """Raise DiskRefused with every reason when ``disk`` may not be written to."""
    found = refusals(disk, holdings, need, virtual)
    if found:
        raise DiskRefused(disk, found, holdings)


def _hint(refusals: Sequence[Refusal], holdings: Sequence[Holding]) -> str:
    points, reasons = [one.point for one in holdings if one.point], {one.reason for one in refusals}
    if reasons == {Reason.OPEN_FOR_WRITING}:
        return "end that program, then try again: what it writes would spoil the card"
    if points and reasons <= {Reason.IN_USE, Reason.OPEN_FOR_WRITING}:
        return f"if this is the card you mean: sudo umount {' '.join(points)}"
    return "see the cards present and why one cannot be written to: piimg cards"
