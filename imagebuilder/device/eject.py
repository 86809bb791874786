"""Power down a finished card, and nothing else."""

from pathlib import Path

from imagebuilder.device.discovery import Disk, changed, find_disks
from imagebuilder.device.holders import holdings_of, read_host, unmount
from imagebuilder.device.usb import same_reader
from imagebuilder.errors import PiimgError
from imagebuilder.system import blockdev
from imagebuilder.system.eject import stop_unit

_TAKE_OUT = "all data is on it: take it out"
_LOOK = "see the cards with: piimg cards"
_UNSUPPORTED = {
    "loop": "a loop device has nothing to power down; detach it with losetup",
    "mmc": "a built-in slot cannot power down its card",
}


def power_down(disk: Disk) -> None:
    """Power down the written card in ``disk``. Its slot stays ready for the next card.

    Call it when no card is being written: some readers with several slots stop all of them at once. For the
    same reason it is refused while another slot of the reader is in use. File systems of the card that a
    desktop mounted are unmounted. Raises PiimgError with the reason when the card is not powered down.
    """
    if disk.driver in _UNSUPPORTED:
        raise PiimgError(f"{disk.node} is not powered down: {_UNSUPPORTED[disk.driver]}", _TAKE_OUT)
    others = [other for other in find_disks() if same_reader(disk, other)]
    host = read_host(other.name for other in others)
    for other in others:
        holdings = holdings_of(other.name, host)
        if holdings:
            use = f"{holdings[0].device} is {holdings[0].by}"
            raise PiimgError(
                f"{disk.node} is not powered down: {other.node} is in the same reader, and {use}", _TAKE_OUT
            )
    _refuse_another(disk)
    unmount(holdings_of(disk.name, host))
    with blockdev.opened(disk.node, write=False) as handle:
        if blockdev.number(handle) != disk.number:
            raise PiimgError(f"{disk.node} is not powered down: it is another card now", _LOOK)
        _refuse_another(disk)
        try:
            stop_unit(handle)
        except OSError as error:
            raise PiimgError(f"{disk.node} cannot be powered down: {error.strerror}", _TAKE_OUT) from error
    if _has_medium(disk):  # firmware that reports success and does nothing is common
        raise PiimgError(f"{disk.node} is not powered down: the reader ignores the request", _TAKE_OUT)


def _has_medium(disk: Disk) -> bool:
    """Whether the kernel still reports a medium in the slot, after it was made to check."""
    blockdev.notice_medium(disk.node)
    try:
        return Path(f"/sys/class/block/{disk.name}/size").read_text().strip() != "0"
    except OSError:
        return False  # the reader removed its disk


def _refuse_another(disk: Disk) -> None:
    differs = "; ".join(changed(disk))
    if differs:
        raise PiimgError(f"{disk.node} is not powered down, it is another card now: {differs}", _LOOK)
