"""piimg backup as a user runs it, and its parts in this process."""

import threading
from pathlib import Path

from imagebuilder.card.backup import Backup, BackupFiles, back_up
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Event, Message, Reporter, Silent
from imagebuilder.system.process import run
from tests.integration.card.test_commands import Ended, piimg

NAME = "worker1.img.zst"


def backed_up(disk: Disk, shelf: Path, *options: object) -> Ended:
    return piimg(shelf, "backup", disk.node, NAME, *options)


def in_process(
    disk: Disk, shelf: Path, reporter: Reporter | None = None, stop: threading.Event | None = None
) -> Backup:
    target = BackupFiles(shelf / NAME)
    return back_up(disk, target, reporter or Silent(), stop or threading.Event())


def unpacked(packed: Path) -> Path:
    """The image in a backup, by zstd itself."""
    image = packed.with_name("unpacked.img")
    run(["zstd", "-dqf", "--sparse", packed, "-o", image])
    return image


class Heard:
    """A reporter that keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def emit(self, event: Event) -> None:
        self.messages += [event] if isinstance(event, Message) else []
