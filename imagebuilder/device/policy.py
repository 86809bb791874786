"""Decide whether a disk may be written to. Each reason against it has a type and a text. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import Holding
from imagebuilder.errors import DeviceError, UsageError

LARGEST = 2 * 10**12  # bytes; the limit of SDXC is 2 TB, and anything larger is not a card

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
    OPEN_FOR_WRITING = auto()  # by a program; this use ends when the program ends


_TEXTS = {
    Reason.LOOP: "it is a loop device, accepted only with --virtual",
    Reason.CACHED: "its file is cached by the host, so reading it proves nothing:"
    " attach it with losetup --direct-io=on",
    Reason.VIRTUAL: "it is a virtual device of this system, not a card",
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
"""The text of each reason; ``{}`` is replaced by its detail."""


@dataclass(frozen=True)
class Refusal:
    """One reason why a disk may not be written to; ``str`` returns its text with the ``detail``."""

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return _TEXTS[self.reason].replace("{}", self.detail)


class DiskRefused(DeviceError, UsageError):
    """A disk may not be written to, or (``write`` is false) read, for the reasons in ``refusals``."""

    def __init__(
        self, disk: Disk, refusals: Sequence[Refusal], holdings: Sequence[Holding], *, write: bool = True
    ) -> None:
        refused = "is not written to" if write else "cannot be read"
        super().__init__(disk.node, f"{refused}: {in_words(refusals)}", _hint(refusals, holdings))
        self.refusals = tuple(refusals)


def in_words(refusals: Sequence[Refusal]) -> str:
    """All reasons in one line."""
    return "; ".join(map(str, refusals))


def refusals(
    disk: Disk, holdings: Sequence[Holding], need: int | None = None, virtual: bool = False
) -> tuple[Refusal, ...]:
    """Why ``disk`` may not be written to; empty when it may.

    ``need`` is the size of the node image in bytes, if known; ``virtual`` accepts loop devices. A file system
    that a desktop mounted automatically is no reason: it is unmounted after the user agreed.
    """
    reasons = kind(disk, virtual)
    if not disk.has_medium:
        return (*reasons, Refusal(Reason.NO_MEDIUM))
    if disk.size > LARGEST:
        reasons.append(Refusal(Reason.TOO_LARGE, f"{disk.size / 1e12:.1f} TB"))
    if need is not None and disk.size < need:
        sizes = f"{disk.size} bytes, and the node image has {need} ({need - disk.size} more)"
        reasons.append(Refusal(Reason.TOO_SMALL, sizes))
    if disk.read_only:
        reasons.append(Refusal(Reason.READ_ONLY))
    return (*reasons, *_uses(holdings, disk.allowed))


def kind(disk: Disk, virtual: bool) -> list[Refusal]:
    """Why a disk is not a card, independent of its medium; empty for a card."""
    if disk.driver == "loop":
        reasons = [] if virtual else [Refusal(Reason.LOOP)]
        return reasons if disk.direct or not disk.has_medium else [*reasons, Refusal(Reason.CACHED)]
    if disk.driver == "virtual":
        return [Refusal(Reason.VIRTUAL)]
    if disk.driver == "mmc":
        return [] if disk.sd else [Refusal(Reason.BUILT_IN)]
    accepted = disk.removable or (disk.allowed and may_be_allowed(disk))
    return [] if accepted else [Refusal(Reason.FIXED, disk.driver)]


def may_be_allowed(disk: Disk) -> bool:
    """Whether the user may accept a fixed disk as a card: only behind USB, and with a serial."""
    return disk.driver == "usb" and not disk.removable and bool(disk.serial)


def _uses(holdings: Sequence[Holding], fixed: bool) -> list[Refusal]:
    """The uses of a disk; for a ``fixed`` one, what a desktop mounted counts as well."""
    system = [holding for holding in holdings if holding.point in _SYSTEM]
    if system:
        return [Refusal(Reason.SYSTEM, ", ".join(dict.fromkeys(holding.point for holding in system)))]
    return [
        Refusal(
            Reason.OPEN_FOR_WRITING if holding.writer else Reason.IN_USE,
            f"{holding.device} is {holding.by}"
            + (f" through {holding.on_top}" if holding.on_top and holding.point else ""),
        )
        for holding in holdings
        if fixed or not holding.desktop
    ]


def check(disk: Disk, holdings: Sequence[Holding], need: int | None, virtual: bool) -> None:
    """Raise DiskRefused with every reason when ``disk`` may not be written to."""
    reasons = refusals(disk, holdings, need, virtual)
    if reasons:
        raise DiskRefused(disk, reasons, holdings)


def _hint(refusals: Sequence[Refusal], holdings: Sequence[Holding]) -> str:
    points = [holding.point for holding in holdings if holding.point]
    reasons = {refusal.reason for refusal in refusals}
    if reasons == {Reason.CACHED}:
        return ""  # the reason says it
    if reasons == {Reason.OPEN_FOR_WRITING}:
        return "end that program, then try again: its writes would damage the data on the card"
    if points and reasons <= {Reason.IN_USE, Reason.OPEN_FOR_WRITING}:
        return f"if this is the card you mean: sudo umount {' '.join(points)}"
    return "see why a card cannot be written, with: piimg cards"
