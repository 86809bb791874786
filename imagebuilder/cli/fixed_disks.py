"""`--allow-fixed SERIAL`: a USB disk that is not removable, as a card. Its exact serial is asked for."""

from collections.abc import Sequence
from dataclasses import replace

from imagebuilder.cli.format import size
from imagebuilder.cli.output import ask
from imagebuilder.device.discovery import Disk
from imagebuilder.device.policy import may_be_allowed
from imagebuilder.errors import UsageError


def allowing(disks: Sequence[Disk], serial: str | None) -> list[Disk]:
    """``disks``, the fixed USB disk with exactly this serial marked as allowed.

    Raises UsageError when ``serial`` is given and none, or more than one, of the disks has it.
    """
    if serial is None:
        return list(disks)
    found = [disk for disk in disks if serial and disk.serial == serial and may_be_allowed(disk)]
    if len(found) != 1:
        shown = ", ".join(f"{disk.node}: {disk.serial or 'none'}" for disk in disks)
        raise UsageError(
            f"--allow-fixed {serial}: {len(found) or 'none'} of the named disks is a fixed USB disk with this"
            f" serial ({shown})",
            "compare device, model and serial with: lsblk --nodeps --output NAME,SIZE,MODEL,SERIAL,TRAN",
        )
    return [replace(disk, allowed=True) if disk is found[0] else disk for disk in disks]


def insist(disks: Sequence[Disk], at_terminal: bool) -> None:
    """Ask for the serial of each allowed disk, also with --yes. Raises UsageError unless it is typed."""
    for disk in disks:
        if not disk.allowed:
            continue
        if not at_terminal:
            raise UsageError(
                f"{disk.node} is a fixed disk: refused without a terminal", "run piimg at a terminal"
            )
        text = (
            f"{disk.node} is a fixed disk, not a card: {disk.model}, {size(disk.size)}, in {disk.slot}.\n"
            f"All that is on it will be lost. Type its serial ({disk.serial}) to write to it"
        )
        if ask(text, otherwise="").strip() != disk.serial:
            raise UsageError("nothing was written", "to write, type the serial as it is shown")
