"""Powering down a card that is done: that card, and nothing else."""

from pathlib import Path

from imagebuilder.device.discovery import Disk, changed, find_disks
from imagebuilder.device.holders import holdings_of, read_host, unmount
from imagebuilder.device.usb import same_reader
from imagebuilder.errors import PiimgError
from imagebuilder.system import blockdev
from imagebuilder.system.eject import stop_unit

_TAKE_OUT = "everything is on it: take it out"
_NOT_BY_US = {
    "loop": "a loop device has nothing to power down; whoever attached it detaches it",
    "mmc": "a built-in slot cannot power down its card",
}


def power_down(disk: Disk) -> None:
    """Power down the card that was written, as ``disk`` describes it. Its slot stays, ready for the next.

    Call it when no card is being written: some readers with several slots stop all of them at once. For that
    reason it is not done either while something uses another slot of the reader. What a desktop mounted of
    the card meanwhile is unmounted. Raises PiimgError saying why it is not done.
    """
    if disk.driver in _NOT_BY_US:
        raise PiimgError(f"{disk.node} is not powered down: {_NOT_BY_US[disk.driver]}", _TAKE_OUT)
    others = [other for other in find_disks() if same_reader(disk, other)]
    host = read_host(other.name for other in others)
    for other in others:
        held = holdings_of(other.name, host)
        if held:
            use = f"{held[0].device} is {held[0].by}"
            raise PiimgError(
                f"{disk.node} is not powered down: {other.node} is in the same reader, and {use}", _TAKE_OUT
            )
    _refuse_another(disk)
    unmount(holdings_of(disk.name, host))
    with blockdev.opened(disk.node, write=False) as handle:
        if blockdev.number(handle) != disk.number:
            raise PiimgError(f"{disk.node} is not powered down: it is another card now")
        _refuse_another(disk)
        try:
            stop_unit(handle)
        except OSError as error:
            raise PiimgError(f"{disk.node} cannot be powered down: {error.strerror}", _TAKE_OUT) from error
    if _has_medium(disk):  # firmware that says yes and does nothing is common
        raise PiimgError(f"{disk.node} is not powered down: the reader does nothing about it", _TAKE_OUT)


def _has_medium(disk: Disk) -> bool:
    """Whether the kernel still sees a medium in the slot, after it was made to look."""
    blockdev.notice_medium(disk.node)
    try:
        return Path(f"/sys/class/block/{disk.name}/size").read_text().strip() != "0"
    except OSError:
        return False  # the reader took its disk away altogether


def _refuse_another(disk: Disk) -> None:
    differs = "; ".join(changed(disk))
    if differs:
        raise PiimgError(f"{disk.node} is not powered down, it is another card now: {differs}")
