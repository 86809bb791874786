"""After a flash the kernel knows the partitions, and udev is notified: real loop devices with partitions.

The kernel may lack the code that reads an MBR. That it read the table anew is seen in any case: a partition
that was announced to it before, and is in no table, is forgotten.
"""

import contextlib
import fcntl
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.io import Gone, opened
from imagebuilder.card.report import Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.card.write import FlashJob, Target, flash
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Event, Message
from imagebuilder.system import blockdev, openers
from imagebuilder.system.process import run
from tests.integration.card.conftest import _ADD, _DELETE, MakeCard, _allow_partitions, _announce
from tests.integration.card.test_busy import READER, python
from tests.support.waiting import wait_until

STALE = (8192, 65536)  # sectors


class Messages:
    """A Reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Message):
            self.said.append(event.text)


def known(card: Disk) -> dict[str, tuple[int, int]]:
    """The partitions of a card that the kernel knows: start and size in sectors."""
    parts = Path(f"/sys/class/block/{card.name}").resolve().glob(f"{card.name}p*")
    return {
        part.name: (int((part / "start").read_text()), int((part / "size").read_text())) for part in parts
    }


def with_stale_partition(card: Disk) -> Path:
    _allow_partitions(card.node)
    _announce(card.node, _ADD, *STALE)
    assert list(known(card).values()) == [STALE]
    return Path(f"{card.node}p1")


def flashed(card: Disk, source: ImageSource) -> list[str]:
    """Flash a card, which must come out good; what was said."""
    messages = Messages()
    report = flash(
        FlashJob(disk=card, source=source, target=Target("worker1", "")), messages, threading.Event()
    )
    assert (report.verdict, report.error) == (Verdict.GOOD, "")
    return messages.said


def test_the_kernel_reads_the_new_table_before_the_card_is_let_go(card: Disk, source: ImageSource) -> None:
    with_stale_partition(card)
    assert flashed(card, source) == []
    found = known(card)
    assert STALE not in found.values()
    run(["blockdev", "--rereadpt", card.node])
    assert known(card) == found


def test_a_card_that_is_right_already_keeps_its_partitions(card: Disk, source: ImageSource) -> None:
    """Nothing was written, so there is nothing new to read."""
    assert flashed(card, source) == []
    with_stale_partition(card)
    assert flashed(card, source) == []
    assert STALE in known(card).values()
    _announce(card.node, _DELETE)


def test_a_partition_that_is_being_read_costs_a_warning_and_not_the_verdict(
    card: Disk, source: ImageSource
) -> None:
    part = with_stale_partition(card)
    with python(READER, part):
        (said,) = flashed(card, source)
    assert said.startswith(f"the system does not know the new partitions of {card.node}: ")
    assert "take it out and put it in again" in said
    _announce(card.node, _DELETE)


def test_the_lock_is_free_before_udev_hears_of_the_close(card: Disk) -> None:
    """Or udev, which is notified of the close before the lock goes, would find the card locked."""
    _allow_partitions(card.node)
    with blockdev.opened(card.node, write=True) as handle:
        other = os.open(card.node, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            blockdev.hand_over(handle)
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(other)


def who_may_not_ask(handle: int) -> None:
    """In place of ``blockdev.hand_over``, for a user without CAP_SYS_ADMIN."""
    fcntl.flock(handle, fcntl.LOCK_UN)
    raise PermissionError


def opens(node: Path) -> openers.OpenerWatch:
    watch = openers.OpenerWatch(node, node.stat().st_rdev)
    assert watch.begin() == []
    return watch


def test_who_may_not_ask_the_kernel_wakes_udev(card: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockdev, "hand_over", who_may_not_ask)
    with contextlib.ExitStack() as stack:
        with opened(card, write=True, patience=10) as mine:
            assert mine.hand_over() == ""
            locked = stack.enter_context(contextlib.closing(opens(card.node)))
        assert locked.since() != ""
    assert Path(card.backing).stat().st_blocks == 0


def test_udev_is_woken_for_the_card_and_not_for_what_has_its_name_now(
    make_card: MakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockdev, "hand_over", who_may_not_ask)
    card, other, name = make_card(), make_card(), tmp_path / "sdb"
    os.mknod(name, stat.S_IFBLK | 0o600, card.node.stat().st_rdev)
    with opened(replace(card, node=name), write=True, patience=10) as mine:
        assert mine.hand_over() == ""
        name.unlink()
        os.mknod(name, stat.S_IFBLK | 0o600, other.node.stat().st_rdev)
        watch = opens(name)
    with contextlib.closing(watch):
        assert watch.since() == ""


def test_opening_the_card_again_has_a_time_limit(card: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that hangs may keep open(2) waiting; what it gives at last is closed."""
    answer, real, opened_at_last = threading.Event(), os.open, list[int]()

    def slow(path: Path | str, *arguments: int) -> int:
        if not str(path).startswith("/proc/self/fd/"):
            return real(path, *arguments)
        assert answer.wait(20)
        opened_at_last.append(real(path, *arguments))
        return opened_at_last[-1]

    with opened(card, write=True, patience=1) as mine:
        monkeypatch.setattr(os, "open", slow)
        with pytest.raises(Gone, match="does not answer"), mine.reopened():
            pass
        answer.set()
        wait_until(
            lambda: opened_at_last and not Path(f"/proc/self/fd/{opened_at_last[0]}").exists(), pause=0.01
        )
