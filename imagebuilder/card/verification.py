"""Verifying a card against an image: which disk may be read for that, and the comparison of every byte."""

import threading
from pathlib import Path

from imagebuilder.card.report import CardReport
from imagebuilder.card.source import open_source
from imagebuilder.card.write import NO_NODE, FlashJob, verify
from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.device.holders import holdings_of, read_host
from imagebuilder.errors import UsageError
from imagebuilder.events import Message, Reporter, Silent


def verify_card(
    device: Path, image: Path, *, reporter: Reporter | None = None, stop: threading.Event | None = None
) -> CardReport:
    """Read all of the card in ``device`` that ``image`` uses, past the page cache, and compare it.

    Nothing is written. What is wrong with the card is in the report: only ``Verdict.GOOD`` says that every
    byte is right. ``stop``, which any thread may set, ends it with ``Verdict.INTERRUPTED``. Raises UsageError
    when ``image`` is no image file or the card is mounted, PiimgError when the image cannot be read.
    """
    reporter = reporter or Silent()
    source = open_source(image, reporter)
    job = FlashJob(disk=disk_to_verify(device, reporter), source=source, target=NO_NODE)
    return verify(job, reporter, stop or threading.Event())


def disk_to_verify(device: Path, reporter: Reporter) -> Disk:
    """The disk in ``device``. Raises UsageError when it is mounted, and so may change while it is read.

    A warning is emitted when another program has it open for writing.
    """
    disk = disk_at(device)
    held = holdings_of(disk.name, read_host([disk.name]))
    points = [one.point for one in held if one.point]
    if points:
        raise UsageError(
            f"{disk.node} is mounted and may change meanwhile", f"sudo umount {' '.join(points)}"
        )
    for one in held:
        if one.writer:
            text = f"{one.device} is {one.by}, and may change meanwhile"
            reporter.emit(Message("warning", text, str(disk.node)))
    return disk
