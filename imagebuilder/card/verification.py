"""Check that a disk may be read; and verify a card against an image: compare every byte in use."""

import threading
from pathlib import Path

from imagebuilder.card.report import CardReport
from imagebuilder.card.source import open_source
from imagebuilder.card.write import NO_NODE, FlashJob, verify
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.device.holders import Holding, holdings_of, read_host
from imagebuilder.errors import UsageError
from imagebuilder.events import Message, Reporter, Silent


def verify_card(
    device: Path, image: Path, *, reporter: Reporter | None = None, stop: threading.Event | None = None
) -> CardReport:
    """Read all of the card in ``device`` that ``image`` uses, past the page cache, and compare it.

    Nothing is written. The report contains any fault of the card: only ``Verdict.GOOD`` says that every byte
    is right. ``stop``, which any thread may set, ends the job with ``Verdict.INTERRUPTED``. Raises UsageError
    when ``image`` is no image file or the card is mounted, PiimgError when the image cannot be read.
    """
    reporter = reporter or Silent()
    source = open_source(image, reporter)
    job = FlashJob(disk=disk_to_verify(device, reporter), source=source, target=NO_NODE)
    return verify(job, reporter, stop or threading.Event())


def disk_to_verify(device: Path, reporter: Reporter) -> Disk:
    """The disk ``device``. Raises UsageError when it is mounted, because it may change while it is read.

    The disk that this system runs from is named as that.

    Emits a warning when another program has it open for writing.
    """
    disk, holdings = _disk_to_read(device)
    for holding in holdings:
        if holding.writer:
            text = f"{holding.device} is {holding.by}, and may change while it is read"
            reporter.emit(Message("warning", text, str(disk.node)))
    return disk


def disk_to_back_up(device: Path) -> Disk:
    """The disk ``device``. Raises UsageError when it is in use in any way that may change it."""
    disk, holdings = _disk_to_read(device)
    if holdings:
        uses = "; ".join(f"{holding.device} is {holding.by}" for holding in holdings)
        raise UsageError(
            f"{disk.node} may change while it is read: {uses}",
            "end that use, then try again: a backup of a card that changes is of no state that it ever had",
        )
    return disk


def _disk_to_read(device: Path) -> tuple[Disk, list[Holding]]:
    """The disk ``device`` and its uses. Raises UsageError when it is mounted, or this system runs from it."""
    disk = disk_at(device)
    holdings = holdings_of(disk.name, read_host([disk.name]))
    points = [holding.point for holding in holdings if holding.point]
    for refusal in policy.refusals(disk, holdings, virtual=True):
        if refusal.reason is policy.Reason.SYSTEM:
            raise UsageError(f"{disk.node} is no card: {refusal}", "see the cards present with: piimg cards")
    if points:
        raise UsageError(
            f"{disk.node} is mounted and may change while it is read", f"sudo umount {' '.join(points)}"
        )
    return disk, holdings
