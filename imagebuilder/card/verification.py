"""Verify a card against an image: check that the disk may be read, and compare every byte in use."""

import threading
from pathlib import Path

from imagebuilder.card.report import CardReport
from imagebuilder.card.source import open_source
from imagebuilder.card.write import NO_NODE, FlashJob, verify
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.device.holders import holdings_of, read_host
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
    for holding in holdings:
        if holding.writer:
            text = f"{holding.device} is {holding.by}, and may change while it is read"
            reporter.emit(Message("warning", text, str(disk.node)))
    return disk
