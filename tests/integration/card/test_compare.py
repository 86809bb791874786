"""What is right on a card already is not written again; what is not looked at is not believed."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.card.compare import _differences
from imagebuilder.card.report import CardReport, Verdict, WriteMode
from imagebuilder.card.source import HEAD, ImageSource, Piece, open_source
from imagebuilder.card.write import NO_NODE, FlashJob, flash
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Event, Silent, Started
from imagebuilder.image import bmap
from tests.integration.card.conftest import MIB, ROOT, MakeCard
from tests.integration.card.rig import bmaptool_agrees
from tests.integration.card.test_write import Meddler, flip

BLOCK = 4096


def flashed(card: Disk, source: ImageSource, full: bool = False) -> CardReport:
    return flash(FlashJob(disk=card, source=source, target=NO_NODE, full=full), Silent(), threading.Event())


@pytest.fixture
def large(tmp_path: Path) -> ImageSource:
    """An image of 160 MiB, all of it in use: three regions."""
    image = tmp_path / "large.img"
    content = bytearray(os.urandom(160 * MIB))
    content[510:512] = b"\x55\xaa"
    image.write_bytes(content)
    bmap.write(image.with_suffix(".bmap"), bmap.make(image, [(0, len(content))]))
    return open_source(image)


def test_a_card_that_holds_it_all_is_only_read(card: Disk, source: ImageSource) -> None:
    flashed(card, source)
    before = Path(card.backing).stat().st_mtime_ns
    report = flashed(card, source)
    assert (report.verdict, report.mode) == (Verdict.GOOD, WriteMode.NOTHING)
    assert (report.written, report.skipped, report.read_back) == (0, source.used, 0)
    assert Path(card.backing).stat().st_mtime_ns == before


def test_only_the_blocks_that_differ_are_written(card: Disk, source: ImageSource) -> None:
    flashed(card, source)
    offsets = [one.start for one in source.map if one.start > ROOT][:3]
    for offset in offsets:
        flip(card, offset)
    report = flashed(card, source)
    assert (report.verdict, report.mode) == (Verdict.GOOD, WriteMode.DIFFERENCES)
    again = len(offsets) * BLOCK
    assert report.written == HEAD + again
    assert report.read_back == HEAD + source.body
    assert report.skipped == source.body - again
    assert bmaptool_agrees(source, card)


def test_with_full_nothing_is_believed(card: Disk, source: ImageSource) -> None:
    flashed(card, source)
    report = flashed(card, source, full=True)
    assert (report.verdict, report.mode, report.skipped) == (Verdict.GOOD, WriteMode.ALL, 0)


def test_a_changed_head_alone_is_mended(card: Disk, source: ImageSource) -> None:
    flashed(card, source)
    flip(card, 600)
    report = flashed(card, source)
    assert (report.verdict, report.mode, report.written) == (Verdict.GOOD, WriteMode.DIFFERENCES, HEAD)
    assert bmaptool_agrees(source, card)


class Totals:
    """What each task was begun with, in bytes."""

    def __init__(self) -> None:
        self.totals: list[tuple[str, int | None]] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Started):
            self.totals.append((event.task, event.total))


def test_what_is_foreign_is_not_read_through(make_card: MakeCard, large: ImageSource) -> None:
    card = make_card(size=large.size)
    Path(card.backing).write_bytes(b"\xa5" * large.size)
    totals = Totals()
    report = flash(FlashJob(disk=card, source=large, target=NO_NODE), totals, threading.Event())
    assert (report.verdict, report.mode, report.skipped) == (Verdict.GOOD, WriteMode.ALL, 0)
    (sample,) = [total for task, total in totals.totals if task == "sample"]
    assert sample is not None and sample <= large.size // 64


def test_a_run_that_was_broken_off_goes_on_where_it_was(make_card: MakeCard, large: ImageSource) -> None:
    card = make_card(size=large.size)
    Path(card.backing).write_bytes(b"\xa5" * large.size)
    stop = threading.Event()
    first = flash(
        FlashJob(disk=card, source=large, target=NO_NODE), Meddler("write", large.size // 2, stop.set), stop
    )
    assert first.verdict is Verdict.INTERRUPTED
    second = flashed(card, large)
    assert (second.verdict, second.mode) == (Verdict.GOOD, WriteMode.DIFFERENCES)
    assert second.skipped >= large.size // 2 - 32 * MIB  # the region it stopped in may be written anew
    assert first.written + second.written <= large.size + 32 * MIB
    assert bmaptool_agrees(large, card)


def test_what_an_older_run_left_is_not_trusted(make_card: MakeCard, large: ImageSource) -> None:
    """Half of it was written by a run that was broken off, and changed since."""
    card = make_card(size=large.size)
    stop = threading.Event()
    flash(
        FlashJob(disk=card, source=large, target=NO_NODE, full=True),
        Meddler("write", large.size // 2, stop.set),
        stop,
    )
    flip(card, 20 * MIB + 17)
    report = flashed(card, large)
    assert report.verdict is Verdict.GOOD
    assert bmaptool_agrees(large, card)


def test_an_image_changed_since_its_map_was_made_is_noticed(
    card: Disk, source: ImageSource, tmp_path: Path
) -> None:
    flashed(card, source)
    piece = source.pieces[-1]
    wrong = replace(source, pieces=(*source.pieces[:-1], replace(piece, digest=bytes(32))))
    report = flashed(card, wrong)
    assert report.verdict is Verdict.FAILED
    assert "does not match its block map" in report.error


@given(st.binary(min_size=1, max_size=20000), st.lists(st.integers(0, 19999), max_size=8))
def test_the_differences_are_all_and_are_joined_when_near(content: bytes, changed: list[int]) -> None:
    have = bytearray(content)
    for at in changed:
        have[at % len(have)] ^= 1
    piece = Piece(MIB, MIB + len(content))
    found = list(_differences(piece, bytes(have), content))
    covered = bytearray(have)
    for one in found:
        low, high = one.start - MIB, one.end - MIB
        assert low % BLOCK == 0 and (high % BLOCK == 0 or high == len(content))
        covered[low:high] = content[low:high]
    assert bytes(covered) == content
    assert bool(found) is (bytes(have) != content)
