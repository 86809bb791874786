"""May this disk be written to? Everything that speaks against it, in words. Pure."""

from collections.abc import Sequence

from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import OPEN_FOR_WRITING, Holding
from imagebuilder.errors import UsageError

LARGEST = 2 * 10**12  # bytes; SDXC ends at 2 TB, and what is larger is somebody's disk

CACHED = "the host caches its file, so nothing could be verified: attach it with losetup --direct-io=on"

_SYSTEM = ("/", "/boot", "/boot/firmware", "/boot/efi", "/usr", "/var", "/home")


def refusals(
    disk: Disk, holdings: Sequence[Holding], need: int | None = None, virtual: bool = False
) -> tuple[str, ...]:
    """Why ``disk`` may not be written to; empty when it may.

    ``need`` is the size of the node image in bytes, if it is known; ``virtual`` admits loop devices. What a
    desktop mounted by itself is no reason: it is unmounted once the user agreed.
    """
    reasons = kind(disk, virtual)
    if not disk.has_medium:
        return (*reasons, "there is no medium in it")
    if disk.size > LARGEST:
        reasons.append(f"it is larger than any card: {_size(disk.size)}")
    if need is not None and disk.size < need:
        reasons.append(
            f"it is too small: {disk.size} bytes, and the node image has {need} ({need - disk.size} more)"
        )
    if disk.read_only:
        reasons.append("it is write-protected")
    return (*reasons, *_uses(holdings))


def kind(disk: Disk, virtual: bool) -> list[str]:
    """Why a disk is no card at all, whatever is in it."""
    if disk.driver == "loop":
        reasons = [] if virtual else ["it is a loop device, which only --virtual admits"]
        return reasons if disk.direct or not disk.has_medium else [*reasons, CACHED]
    if disk.driver == "virtual":
        return ["it is no card but a device made by this system"]
    if disk.driver == "mmc":
        return [] if disk.sd else ["it is built in (eMMC), not a card"]
    return [] if disk.removable else [f"it is not removable ({disk.driver} disk)"]


def _uses(holdings: Sequence[Holding]) -> list[str]:
    system = [one for one in holdings if one.point in _SYSTEM]
    if system:
        points = ", ".join(dict.fromkeys(one.point for one in system))
        return [f"this system runs from it: it holds {points}"]
    return [
        f"{one.device} is {one.by}" + (f" through {one.on_top}" if one.on_top and one.point else "")
        for one in holdings
        if not one.desktop
    ]


def check(disk: Disk, holdings: Sequence[Holding], need: int | None, virtual: bool) -> None:
    """Raise UsageError with every reason when ``disk`` may not be written to."""
    reasons = refusals(disk, holdings, need, virtual)
    if reasons:
        raise UsageError(f"{disk.node} is not written to: {'; '.join(reasons)}", _hint(reasons, holdings))


def _hint(reasons: Sequence[str], holdings: Sequence[Holding]) -> str:
    points = [one.point for one in holdings if one.point]
    if points and list(reasons) == _uses(holdings) and not any(point in _SYSTEM for point in points):
        return f"if this is the card you mean: sudo umount {' '.join(points)}"
    if all(OPEN_FOR_WRITING in reason for reason in reasons):
        return "end that program, then try again: what it writes would spoil the card"
    return "see the cards present and what speaks against each with: piimg cards"


def _size(count: int) -> str:
    return f"{count / 1e12:.1f} TB"
