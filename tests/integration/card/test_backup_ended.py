"""Backups that go wrong: stopped, killed, a card that fails, a disk that is full."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagebuilder.device.discovery import Disk
from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.events import Event, Finished
from imagebuilder.image.allocation import used_ranges
from imagebuilder.system.process import run
from tests.integration.card.backing_up import NAME, Heard, backed_up, in_process, unpacked
from tests.integration.card.conftest import MIB, ROOT, copy_to
from tests.integration.card.faults import When
from tests.integration.card.rig import Rig, below
from tests.integration.card.running import command, environment
from tests.integration.card.test_commands import piimg
from tests.support.judge import check_file_systems, said
from tests.support.waiting import wait_until


@dataclass
class Ending(When):
    """The same, and ``ended`` has whether each task went well."""

    ended: list[bool] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        super().emit(event)
        self.ended += [event.ok] if isinstance(event, Finished) else []


def test_a_write_to_the_card_meanwhile_makes_it_no_backup(used_card: Disk, shelf: Path) -> None:
    def write() -> None:
        with used_card.node.open("r+b", buffering=0) as stream:
            os.pwrite(stream.fileno(), bytes(512), ROOT + 5 * MIB)

    def write_as_another_program() -> None:
        run(["sh", "-c", f"exec 3>>{used_card.node}"])

    for act in (write, write_as_another_program):
        when = Ending("backup", 0.3, act, str(used_card.node))
        with pytest.raises(PiimgError, match="was opened for writing by"):
            in_process(used_card, shelf, when)
        assert when.done and not list(shelf.iterdir())
        assert when.ended == [False], "it is not reported as done first"


def test_a_stop_leaves_nothing_and_keeps_an_older_backup(used_card: Disk, shelf: Path) -> None:
    stop = threading.Event()
    (shelf / NAME).write_text("older")
    (shelf / f"{NAME}.json").write_text("older")
    when = When("backup", 0.3, stop.set, str(used_card.node))
    with pytest.raises(Interrupted, match="no backup was made"):
        in_process(used_card, shelf, when, stop)
    assert sorted(path.name for path in shelf.iterdir()) == [NAME, f"{NAME}.json"]
    assert (shelf / NAME).read_text() == (shelf / f"{NAME}.json").read_text() == "older"


@pytest.fixture
def slow(make_faulty: Rig, images: Path) -> Callable[..., Disk]:
    """``slow(fault=…)`` is a card of 64 MiB with worker1 and a fault of reading."""

    def made(**faults: str | int) -> Disk:
        disk = make_faulty(**faults)
        copy_to(images / "worker1.img", below(disk))
        with below(disk).open("r+b") as stream:  # dd left out the zeros
            for start, end in used_ranges(images / "worker1.img"):
                with (images / "worker1.img").open("rb") as image:
                    os.pwrite(stream.fileno(), os.pread(image.fileno(), end - start, start), start)
        return disk

    return made


@contextmanager
def running(disk: Disk, shelf: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """piimg that backs up a slow card, at work."""
    process = subprocess.Popen(
        command("--progress", "json", "backup", disk.node, NAME),
        cwd=shelf,
        env=environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert any(b'"advanced"' in line for line in process.stderr)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(slow: Callable[..., Disk], shelf: Path, number: signal.Signals) -> None:
    disk = slow(fault="stall-on-read", stall="0.2", after=4 * MIB)
    with running(disk, shelf) as process:
        process.send_signal(number)
        assert process.stderr is not None
        text = process.stderr.read().decode()
        assert process.wait(20) == 130, text
    assert "no backup was made" in text and "Traceback" not in text
    assert not list(shelf.iterdir())


def test_ctrl_c_twice_ends_at_once_and_leaves_nothing(slow: Callable[..., Disk], shelf: Path) -> None:
    disk = slow(fault="stall-on-read", stall="1000", after=9 * MIB)
    with running(disk, shelf) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert any(b"repeat to stop at once" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert any(b"piimg: stopped at once" in line for line in process.stderr)
        wait_until(lambda: not list(shelf.iterdir()))
        below(disk).with_name("switch").unlink()  # the kernel keeps a process that waits for it
        assert process.wait(20) == 130


def test_cleanup_removes_what_a_kill_left(slow: Callable[..., Disk], shelf: Path) -> None:
    disk = slow(fault="stall-on-read", stall="0.2", after=4 * MIB)
    with running(disk, shelf) as process:
        process.kill()
        process.wait()
    (left,) = shelf.iterdir()
    assert left.name.endswith(".partial") and left.stat().st_mode & 0o777 == 0o600
    assert piimg(shelf, "cleanup").returncode == 0
    assert not list(shelf.iterdir())


def noise(images: Path) -> int:
    """A byte inside the file /noise of the root partition."""
    content = (images / "worker1-files" / "noise").read_bytes()
    return (images / "worker1.img").read_bytes().index(content[MIB : MIB + 512], ROOT) + 7


def test_a_card_that_cannot_be_read_gives_no_backup(
    slow: Callable[..., Disk], images: Path, shelf: Path
) -> None:
    at = noise(images)
    disk = slow(fault="read-error", at=at)
    done = backed_up(disk, shelf)
    assert done.returncode == 1
    place = f"byte {at // 4096 * 4096} (partition 2, /noise) cannot be read: Input/output error"
    assert place in done.stderr and f"sudo ddrescue {disk.node} FILE.img" in done.stderr
    assert not list(shelf.iterdir())


def test_a_read_that_succeeds_when_repeated_is_noted(
    slow: Callable[..., Disk], images: Path, shelf: Path
) -> None:
    heard = Heard()
    disk = slow(fault="read-error", at=noise(images), times=2)
    done = in_process(disk, shelf, heard)
    assert done.retries > 0
    assert any("reads had to be repeated" in message.text for message in heard.messages)
    image = unpacked(shelf / NAME)
    said("bmaptool", "copy", "--bmap", f"{shelf / NAME}.bmap", image, "/dev/null")
    said("cmp", "--bytes", str(ROOT), image, images / "worker1.img")
    check_file_systems(image, shelf)


def test_a_full_disk(used_card: Disk, shelf: Path) -> None:
    run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", shelf])
    try:
        done = backed_up(used_card, shelf)
        assert done.returncode == 1, done.stderr
        assert f"are free in {shelf}" in done.stderr or "are free in ." in done.stderr
        assert "no room on the disk of" in done.stderr
        assert not list(shelf.iterdir())
    finally:
        run(["umount", shelf])


def test_without_room_for_the_last_of_its_files_the_older_backup_stays(used_card: Disk, shelf: Path) -> None:
    """A file system with inodes for the older backup and one file more: the image itself fits."""
    run(["mount", "-t", "tmpfs", "-o", "nr_inodes=6", "tmpfs", shelf])
    try:
        assert backed_up(used_card, shelf).returncode == 0
        older = {path.name: path.read_bytes() for path in shelf.iterdir()}
        assert len(older) == 4
        done = backed_up(used_card, shelf, "--force")
        assert done.returncode == 1 and "no room on the disk of" in done.stderr
        assert {path.name: path.read_bytes() for path in shelf.iterdir()} == older
    finally:
        run(["umount", shelf])
