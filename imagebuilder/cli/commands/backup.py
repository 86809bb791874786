"""`piimg backup`: what is in use on a card, into a packed image."""

import shlex
from pathlib import Path

from imagebuilder.card.backup import Backup, BackupFiles, back_up
from imagebuilder.card.verification import disk_to_back_up
from imagebuilder.cli.format import duration, size
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import graceful_stop
from imagebuilder.errors import UsageError
from imagebuilder.system.cleanup import free_leftovers

_SUFFIX = ".img.zst"


def backup(session: Session, device: Path, file: Path, force: bool, as_json: bool) -> None:
    """Run ``piimg backup``, called as ``usage/backup.py`` says."""
    if not file.name.endswith(_SUFFIX) or file.name == _SUFFIX:
        stem = file.name.split(".")[0] or "card"
        raise UsageError(f"the name of a backup ends in {_SUFFIX}", f"name it {stem}{_SUFFIX}")
    disk = disk_to_back_up(device)
    target = BackupFiles(file)
    target.check(replace=force)
    free_leftovers()
    unfinished: list[Path] = []

    def begins(used: int, work: Path) -> None:
        unfinished.append(work)
        session.reporter.expect(str(disk.node), used, f"backup {disk.slot}")

    def remove() -> None:
        for work in unfinished:
            work.unlink(missing_ok=True)

    with graceful_stop(session.stop, session.reporter, at_once=remove) as graceful:
        done = back_up(disk, target, session.reporter, session.stop, begins=begins)
        graceful.work_ended()
        session.settle()
        echo_json(done.document()) if as_json else echo(_text(done))


def _text(done: Backup) -> str:
    node = done.carried.named() or "no node"
    return (
        f"{done.files.image}: {size(done.packed)}, of {size(done.used)} in use, in {duration(done.seconds)};"
        f" read back, and right\n"
        f"{done.disk.node} carries {node}; the image has {size(done.size)}\n"
        f"to write it to a card: sudo piimg flash DEVICE --image {shlex.quote(str(done.files.image))}"
    )
