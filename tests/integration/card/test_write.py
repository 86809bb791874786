"""The engine on real loop devices: what it says of a card is so, and bmaptool says the same."""

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.card.report import Verdict
from imagebuilder.card.source import HEAD, ImageSource, cut, first_difference, open_source
from imagebuilder.card.write import NO_NODE, FlashJob, Target, flash, verify
from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.device.identity import Carried, parse_unfinished, unfinished_line
from imagebuilder.device.policy import refusals
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Advanced, Event, Silent
from imagebuilder.image import bmap
from imagebuilder.image.bmap import PIECE
from imagebuilder.system import blockdev, loop, mount
from imagebuilder.system.files import data_ranges
from imagebuilder.system.process import run
from tests.integration.card.conftest import BOOT, MIB, ROOT, MakeCard
from tests.integration.card.rig import bmaptool_agrees


def flip(disk: Disk, offset: int) -> None:
    """Change one byte of a card."""
    with disk.node.open("r+b") as stream:
        old = os.pread(stream.fileno(), 1, offset)
        os.pwrite(stream.fileno(), bytes([old[0] ^ 0x01]), offset)


def head(disk: Disk) -> bytes:
    with disk.node.open("rb") as stream:
        return stream.read(HEAD)


def test_a_card_is_written_and_found_good(card: Disk, source: ImageSource) -> None:
    report = flash(
        FlashJob(disk=card, source=source, target=Target("worker1", "")), Silent(), threading.Event()
    )
    assert (report.verdict, report.error) == (Verdict.GOOD, "")
    assert report.read_back == source.body + HEAD, "all of it was read after the writing"
    assert report.written + report.skipped == source.used == source.map.used
    assert bmaptool_agrees(source, card)
    assert (
        verify(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )


@pytest.mark.parametrize("place", [446, ROOT + 1024 + 56, "first", "last"])
def test_a_flipped_byte_is_found_where_it_is(card: Disk, source: ImageSource, place: int | str) -> None:
    assert (
        flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )
    ends = {"first": source.map.ranges[0].start, "last": source.map.ranges[-1].end - 1}
    offset = place if isinstance(place, int) else ends[place]
    flip(card, offset)
    report = verify(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.offset) == (Verdict.BAD, offset)
    assert report.partition == (None if offset < HEAD else 2)
    assert not bmaptool_agrees(source, card)


class Meddler:
    """A reporter that does something once when a task is so far."""

    def __init__(self, task: str, after: int, act: Callable[[], object]) -> None:
        self.task, self.after, self.act = task, after, act
        self.done = False

    def emit(self, event: Event) -> None:
        if (
            isinstance(event, Advanced)
            and event.task == self.task
            and event.done >= self.after
            and not self.done
        ):
            self.done = True
            self.act()


def test_a_card_that_held_other_data_is_overwritten_where_it_matters(
    make_card: MakeCard, source: ImageSource, tmp_path: Path
) -> None:
    card = make_card(size=source.size)
    Path(card.backing).write_bytes(b"\xff" * source.size)
    assert (
        flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )
    copy = tmp_path / "copy.img"
    copy.write_bytes(Path(card.backing).read_bytes())
    run(["e2fsck", "-fn", f"{copy}?offset={ROOT}"])
    for name in ("noise", "zeros", "hostname"):
        said = run(["debugfs", "-R", f"cat /{name}", f"{copy}?offset={ROOT}"]).stdout
        assert said == (source.content.base.parent / "worker1-files" / name).read_bytes()
    boot = run(["mtype", "-i", f"{copy}@@{BOOT}", "::noise"]).stdout
    assert boot == (source.content.base.parent / "worker1-files" / "noise").read_bytes()


def test_a_card_that_is_cut_off_says_what_it_was_to_become(card: Disk, source: ImageSource) -> None:
    seen: list[bytes] = []
    job = FlashJob(disk=card, source=source, target=Target("worker1", "picluster"))
    flash(job, Meddler("write", 1, lambda: seen.append(head(card))), threading.Event())
    assert parse_unfinished(seen[0]) == Carried("worker1", "picluster")
    assert seen[0][510:512] == bytes(2)
    assert parse_unfinished(head(card)) is None


@pytest.mark.parametrize(
    ("node", "cluster"), [("worker1", "picluster"), ("worker1", ""), ("", ""), ("", "x")]
)
def test_what_a_card_was_to_become_is_read_as_it_was_written(node: str, cluster: str) -> None:
    line = unfinished_line(node, cluster)
    assert parse_unfinished(line + bytes(9)) == Carried(node, cluster if node else "")
    for spoilt in (line[1:], line[:-1], line.upper(), b"", line.replace(b"here", b"hare")):
        assert parse_unfinished(spoilt) is None
    assert parse_unfinished(b"piimg is writing -x of y- here\n") == Carried()


@pytest.mark.parametrize(("task", "share"), [("write", 0.0), ("write", 0.5), ("read-back", 0.5)])
def test_an_interrupted_card_does_not_boot(card: Disk, source: ImageSource, task: str, share: float) -> None:
    assert (
        flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )
    stop = threading.Event()
    meddler = Meddler(task, int(source.body * share), stop.set)
    report = flash(FlashJob(disk=card, source=source, target=NO_NODE, full=True), meddler, stop)
    assert report.verdict is Verdict.INTERRUPTED
    assert "does not boot" in report.error
    assert head(card) == bytes(HEAD)
    assert (
        flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )


def test_stopped_before_it_began_a_card_is_as_it_was(card: Disk, source: ImageSource) -> None:
    assert (
        flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )
    stop = threading.Event()
    stop.set()
    report = flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), stop)
    assert (report.verdict, report.written) == (Verdict.INTERRUPTED, 0)
    assert "it is unchanged" in report.error
    assert (
        verify(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )


def test_a_changed_image_is_caught(card: Disk, images: Path, tmp_path: Path) -> None:
    for suffix in (".img", ".bmap"):
        (tmp_path / f"worker1{suffix}").write_bytes((images / f"worker1{suffix}").read_bytes())
    source = open_source(tmp_path / "worker1.img")
    with source.content.base.open("r+b") as stream:
        stream.seek(ROOT + 1024 + 60)
        stream.write(b"changed")
    report = flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event())
    assert report.verdict is Verdict.FAILED
    assert "does not match its block map" in report.error
    assert head(card) == bytes(HEAD)


def test_an_image_cut_short_meanwhile_is_caught(card: Disk, images: Path, tmp_path: Path) -> None:
    image = tmp_path / "x.img"
    image.write_bytes((images / "worker1.img").read_bytes())
    source = open_source(image)
    meddler = Meddler("write", 8 * MIB, lambda: os.truncate(image, 20 * MIB))
    report = flash(FlashJob(disk=card, source=source, target=NO_NODE, full=True), meddler, threading.Event())
    assert report.verdict is Verdict.FAILED
    assert "cannot read" in report.error
    assert head(card) == bytes(HEAD)


def test_another_card_in_the_slot_is_not_written_to(card: Disk, source: ImageSource) -> None:
    asked_about = replace(card, diskseq=(card.diskseq or 2) - 1)
    report = flash(FlashJob(disk=asked_about, source=source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.written) == (Verdict.FAILED, 0)
    assert "is no longer the selected card" in report.error


@pytest.mark.parametrize("change", [{"size": 1 << 30}, {"serial": "another"}, {"model": "another"}])
def test_a_card_that_is_not_as_shown_is_not_written_to(
    card: Disk, source: ImageSource, change: dict[str, object]
) -> None:
    shown = Disk(**{**vars(card), **change})
    report = flash(FlashJob(disk=shown, source=source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.written) == (Verdict.FAILED, 0)
    assert "is no longer the selected card" in report.error


def test_a_card_in_use_is_not_written_to(card: Disk, source: ImageSource) -> None:
    with blockdev.opened(card.node, write=True):
        report = flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.written) == (Verdict.FAILED, 0)
    assert "is in use" in report.error


def test_udev_that_probes_a_card_is_waited_for(card: Disk, source: ImageSource) -> None:
    holder = subprocess.Popen(["flock", "--shared", card.node, "sh", "-c", "echo; sleep 0.5"], stdout=-1)
    assert holder.stdout is not None and holder.stdout.readline() == b"\n"  # it has the lock now
    report = flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.error) == (Verdict.GOOD, "")
    assert holder.wait(10) == 0
    holder.stdout.close()


def test_who_has_it_open_is_named(card: Disk) -> None:
    with card.node.open("rb") as stream:
        fcntl.flock(stream.fileno(), fcntl.LOCK_SH)
        holder = subprocess.Popen(["sleep", "60"], pass_fds=[stream.fileno()])
    try:
        with (
            pytest.raises(PiimgError, match=rf"is in use by sleep \(process {holder.pid}\)"),
            blockdev.opened(card.node, write=True),
        ):
            pytest.fail("a locked card was opened")
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("missing", [1, 512, 20 * MIB])
def test_a_card_too_small_is_not_written_to(make_card: MakeCard, source: ImageSource, missing: int) -> None:
    card = make_card(size=(source.size - missing) // 512 * 512)
    report = flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.written) == (Verdict.FAILED, 0)
    assert "too small" in report.error


@pytest.mark.parametrize("size", [1, 511, 512, 2850, 4096, 4097, HEAD - 512, HEAD, HEAD + 1, 5 * MIB + 512])
def test_an_image_of_any_size_without_a_block_map(make_card: MakeCard, tmp_path: Path, size: int) -> None:
    image = tmp_path / "any"
    image.write_bytes(os.urandom(size))
    source = open_source(image)
    card = make_card(size=8 * MIB)
    Path(card.backing).write_bytes(b"\xff" * 8 * MIB)
    report = flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.written) == (Verdict.GOOD, size)
    written = Path(card.backing).read_bytes()
    end = -(-size // 512) * 512
    assert written[:size] == image.read_bytes()
    assert written[end:] == b"\xff" * (8 * MIB - end)
    assert (
        verify(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\xfd7zXZ\0\0", "is compressed"),
        (b"\x1f\x8b\x08\0\0\0", "is compressed"),
        (b"PK\x03\x04\0\0", "is compressed"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.img").write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        open_source(tmp_path / "x.img")


def test_zeros_that_a_block_map_of_holes_leaves_out_are_written(
    make_card: MakeCard, images: Path, tmp_path: Path
) -> None:
    """bmaptool makes maps of holes, as those that are published beside images."""
    image = tmp_path / "x.img"
    shutil.copy(images / "worker1.img", image)
    with mount.ext4(image, ROOT, image.stat().st_size - ROOT) as point:
        (point / "used").write_bytes(bytes(MIB))
    run(["fallocate", "--dig-holes", image])
    with image.open("rb") as stream:
        whole_blocks = list(data_ranges(stream.fileno(), 0, image.stat().st_size))
    bmap.write(image.with_suffix(".bmap"), bmap.make(image, whole_blocks))
    card = make_card(size=image.stat().st_size)
    Path(card.backing).write_bytes(b"\xff" * card.size)
    source = open_source(image)
    assert (
        verify(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.BAD
    )
    assert (
        flash(FlashJob(disk=card, source=source, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )
    copy = tmp_path / "copy.img"
    copy.write_bytes(Path(card.backing).read_bytes())
    assert run(["debugfs", "-R", "cat /used", f"{copy}?offset={ROOT}"]).stdout == bytes(MIB)


def test_the_block_map_of_another_image_is_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "x.img").write_bytes(bytes(MIB))
    (tmp_path / "x.bmap").write_bytes((images / "worker1.bmap").read_bytes())
    with pytest.raises(PiimgError, match="is not the block map of"):
        open_source(tmp_path / "x.img")


@given(st.integers(0, 20 * MIB), st.integers(1, 20 * MIB))
def test_pieces_cover_a_range_exactly(start: int, length: int) -> None:
    found = list(cut(start, start + length))
    assert found[0][0] == start
    assert found[-1][1] == start + length
    assert all(one[1] == next_[0] for one, next_ in pairwise(found))
    for low, high in found:
        assert 0 < high - low <= PIECE
        assert low // PIECE == (high - 1) // PIECE


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_the_first_difference_is_the_first(have: bytes, wanted: bytes) -> None:
    index = first_difference(have, wanted)
    if index is None:
        assert have == wanted
    else:
        assert have[:index] == wanted[:index]
        assert have[index : index + 1] != wanted[index : index + 1]


def test_a_loop_device_that_caches_is_never_called_good(
    source: ImageSource, tmp_path: Path, root: None
) -> None:
    file = tmp_path / "cached"
    file.touch()
    os.truncate(file, source.size)
    with loop.attached(file, direct_io=False) as device:
        disk = disk_at(device)
        if disk.direct:
            pytest.skip("this kernel turns direct I/O on by itself")
        assert any("--direct-io=on" in str(reason) for reason in refusals(disk, (), virtual=True))
        for report in (
            flash(FlashJob(disk=disk, source=source, target=NO_NODE), Silent(), threading.Event()),
            verify(FlashJob(disk=disk, source=source, target=NO_NODE), Silent(), threading.Event()),
        ):
            assert (report.verdict, report.written, report.read_back) == (Verdict.FAILED, 0, 0)
            assert "--direct-io=on" in report.error
