"""What was not read from this very card, after the last write to it, is not believed."""

import fcntl
import gc
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict, WriteMode
from imagebuilder.card.source import HEAD, ImageSource, open_source
from imagebuilder.card.write import NO_NODE, FlashJob, flash, verify
from imagebuilder.device.discovery import disk_at
from imagebuilder.events import Silent
from imagebuilder.system import loop
from tests.integration.card.conftest import MIB, MakeCard
from tests.integration.card.faults import When, first_wrong
from tests.integration.card.rig import SIZE, Rig, below
from tests.support.waiting import wait_until

_LOOP_CHANGE_FD = 0x4C06  # linux/loop.h
PLACE = 4 * MIB  # where the probe puts a marker, and a file system begins


def preload(medium: Path, source: ImageSource, damage: int) -> None:
    """Make a card hold the image but for a block."""
    with medium.open("r+b") as stream:
        stream.write(source.content.base.read_bytes())
        stream.seek(damage)
        stream.write(b"\x55" * 4096)


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "lost-write", "at": PLACE + 100, "after": 2 * MIB + 7 * 4096, "times": 1},
        {"fault": "flip-on-write", "at": PLACE + 100, "after": 2 * MIB, "times": 1},
    ],
)
def test_what_the_probe_puts_back_is_read_again(
    make_faulty: Rig, source: ImageSource, fault: dict[str, str | int]
) -> None:
    disk = make_faulty(**fault)
    preload(below(disk), source, 21 * MIB)
    report = flash(FlashJob(disk=disk, source=source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.mode) == (Verdict.GOOD, WriteMode.DIFFERENCES)
    assert first_wrong(source, below(disk)) is None


def test_what_the_probe_found_before_it_is_not_put_back_unseen(make_faulty: Rig, source: ImageSource) -> None:
    disk = make_faulty(off=True, fault="flip-on-read", at=PLACE + 100, times=1)
    preload(below(disk), source, 21 * MIB)
    when = When("probe", 0, lambda: make_faulty.switch(disk), str(disk.node))
    report = flash(FlashJob(disk=disk, source=source, target=NO_NODE), when, threading.Event())
    assert report.verdict is Verdict.GOOD
    assert first_wrong(source, below(disk)) is None


@pytest.mark.parametrize("short", [512, 4096, 64 * 1024, MIB - 4096, MIB - 512])
def test_a_fake_that_wraps_round_in_the_last_piece_is_found(
    make_faulty: Rig, source: ImageSource, tmp_path: Path, short: int
) -> None:
    plain = tmp_path / "plain.img"  # without a map: its tail of zeros is in use, and right on a blank card
    shutil.copy(source.content.base, plain)
    disk = make_faulty(announced=SIZE, wrap=source.size - short)
    report = flash(
        FlashJob(disk=disk, source=open_source(plain), target=NO_NODE), Silent(), threading.Event()
    )
    assert report.verdict is Verdict.BAD, report


class Swap:
    """A loop device whose file is changed while it is open, as a card in a reader can be."""

    def __init__(self, device: Path, other: Path) -> None:
        self.device, self.other = device, other

    def __call__(self) -> None:
        with self.device.open("rb") as loop_device, self.other.open("rb") as file:
            fcntl.ioctl(loop_device.fileno(), _LOOP_CHANGE_FD, file.fileno())


def test_two_halves_of_two_cards_are_no_good_card(source: ImageSource, tmp_path: Path, root: None) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for file, wrong in ((first, source.pieces[-1].start + 5), (second, 4 * MIB + 5)):
        content = bytearray(source.content.base.read_bytes())
        content[wrong] ^= 1
        file.write_bytes(content)
    with loop.attached(first, read_only=True, direct_io=True) as device:
        when = When("read-back", 0.5, Swap(device, second), str(device))
        report = verify(
            FlashJob(disk=disk_at(device), source=source, target=NO_NODE), when, threading.Event()
        )
        Swap(device, first)()  # so that it is known as the one that was attached
    assert when.done
    assert report.verdict is Verdict.FAILED
    assert "another card" in report.error


def test_a_stop_while_it_is_sampled_leaves_nothing_to_wait_for(make_faulty: Rig, source: ImageSource) -> None:
    disk = make_faulty(fault="stall-on-read", stall="0.3")
    stop = threading.Event()
    begun = time.monotonic()
    when = When("sample", 0.3, stop.set, str(disk.node))
    report = flash(FlashJob(disk=disk, source=source, target=NO_NODE, patience=30), when, stop)
    gc.collect()
    assert report.verdict is Verdict.INTERRUPTED
    assert time.monotonic() - begun < 20


def test_a_card_that_answers_at_last_can_be_used_again(make_faulty: Rig, source: ImageSource) -> None:
    disk = make_faulty(fault="stall-on-write", stall="100", times=1)
    report = flash(
        FlashJob(disk=disk, source=source, target=NO_NODE, patience=1), Silent(), threading.Event()
    )
    assert "does not answer" in report.error
    (below(disk).with_name("switch")).unlink()
    wait_until(lambda: disk.node not in {one.resolve() for one in Path("/proc/self/fd").iterdir()})
    again = flash(
        FlashJob(disk=disk_at(disk.node), source=source, target=NO_NODE), Silent(), threading.Event()
    )
    assert again.verdict is Verdict.GOOD


def test_what_is_given_up_unread_does_not_count_as_read(make_card: MakeCard, tmp_path: Path) -> None:
    image = tmp_path / "large.img"
    image.write_bytes(os.urandom(64 * MIB))
    source = open_source(image)
    card = make_card(size=64 * MIB)
    content = bytearray(image.read_bytes())
    for at in range(0, len(content), MIB):  # the samples are right, and most of the rest is not
        content[at + 65536 : at + MIB] = bytes(MIB - 65536)
    Path(card.backing).write_bytes(content)
    totals: list[tuple[int, int | None]] = []

    class Watch:
        def emit(self, event: object) -> None:
            if getattr(event, "task", "") == "compare" and hasattr(event, "done"):
                totals.append((event.done, event.total))  # type: ignore[attr-defined]

    report = flash(FlashJob(disk=card, source=source, target=NO_NODE), Watch(), threading.Event())
    assert (report.verdict, report.mode) == (Verdict.GOOD, WriteMode.DIFFERENCES)
    assert max(done for done, _ in totals) <= 16 * HEAD
