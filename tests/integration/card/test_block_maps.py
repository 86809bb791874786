"""What an earlier run wrote is known by its block map, and never believed because of it."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.report import CardReport, Verdict, WriteMode
from imagebuilder.card.source import HEAD, ImageSource, Piece, open_source
from imagebuilder.card.write import NO_NODE, FlashJob, flash
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Event, Silent, Started
from imagebuilder.history.block_maps import KEPT, BlockMapStore, earlier_in
from imagebuilder.image import bmap
from tests.integration.card.conftest import MIB, MakeCard
from tests.integration.card.rig import bmaptool_agrees
from tests.integration.card.test_commands import piimg
from tests.integration.card.test_write import flip

pytestmark = pytest.mark.long

SIZE = 96 * MIB
CHANGED = (5 * MIB + 4096, 40 * MIB, 70 * MIB + 8192)  # bytes; a block at each is another in the newer image


def make(folder: Path, content: bytes) -> ImageSource:
    folder.mkdir()
    image = folder / "worker1.img"
    image.write_bytes(content)
    bmap.write(image.with_suffix(".bmap"), bmap.make(image, [(0, len(content))]))
    return open_source(image)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """An image of 96 MiB, all in use."""
    content = bytearray(os.urandom(SIZE))
    content[510:512] = b"\x55\xaa"
    return make(tmp_path_factory.mktemp("older") / "build", bytes(content))


@pytest.fixture(scope="module")
def newer(older: ImageSource, tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """The same with some other blocks."""
    content = bytearray(older.content.base.read_bytes())
    for at in CHANGED:
        content[at : at + 4096] = os.urandom(4096)
    return make(tmp_path_factory.mktemp("newer") / "build", bytes(content))


class Tasks:
    """How many bytes each task was begun with."""

    def __init__(self) -> None:
        self.totals: dict[str, list[int]] = {}

    def emit(self, event: Event) -> None:
        if isinstance(event, Started) and event.total is not None:
            self.totals.setdefault(event.task, []).append(event.total)


def flashed(
    card: Disk, source: ImageSource, earlier: Sequence[Sequence[Piece]] = ()
) -> tuple[CardReport, dict[str, list[int]]]:
    tasks = Tasks()
    report = flash(
        FlashJob(disk=card, source=source, target=NO_NODE, earlier=earlier), tasks, threading.Event()
    )
    assert bmaptool_agrees(source, card) is (report.verdict is Verdict.GOOD)
    return report, tasks.totals


@pytest.fixture
def card(make_card: MakeCard, older: ImageSource) -> Disk:
    """A card that holds the older image."""
    card = make_card(size=SIZE)
    assert (
        flash(FlashJob(disk=card, source=older, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.GOOD
    )
    return card


def test_what_was_written_before_is_read_once(card: Disk, older: ImageSource, newer: ImageSource) -> None:
    report, totals = flashed(card, newer, [older.pieces])
    assert (report.verdict, report.mode, report.retries) == (Verdict.GOOD, WriteMode.DIFFERENCES, 0)
    assert report.written == HEAD + len(CHANGED) * 4096
    assert totals["compare"] == [len(CHANGED) * MIB]
    assert totals["read-back"] == [SIZE - 4096]
    assert sum(totals["sample"]) < 8 * MIB


def test_without_a_map_it_is_read_twice(card: Disk, newer: ImageSource) -> None:
    report, totals = flashed(card, newer)
    assert (report.verdict, report.mode) == (Verdict.GOOD, WriteMode.DIFFERENCES)
    assert (totals["compare"], totals["read-back"]) == ([SIZE], [SIZE - 4096])


def test_the_map_that_fits_is_found_among_others(card: Disk, older: ImageSource, newer: ImageSource) -> None:
    content = bytearray(older.content.base.read_bytes())
    content[60 * MIB : 61 * MIB] = os.urandom(MIB)
    other = make(older.content.base.parent.with_name("other"), bytes(content))
    report, totals = flashed(card, newer, [newer.pieces, other.pieces, older.pieces])
    assert (report.verdict, totals["compare"]) == (Verdict.GOOD, [len(CHANGED) * MIB])


@pytest.mark.parametrize("places", [1, 25])
def test_what_changed_on_the_card_since_is_found(
    card: Disk, older: ImageSource, newer: ImageSource, places: int
) -> None:
    """In places that no sample looks at: they are found by the reading, written, and all is read again."""
    for number in range(places):
        flip(card, (41 + number) * MIB + 777777)
    report, totals = flashed(card, newer, [older.pieces])
    assert (report.verdict, report.mode) == (Verdict.GOOD, WriteMode.DIFFERENCES)
    assert report.skipped == SIZE - HEAD - len(CHANGED) * 4096 - places * MIB
    assert totals["read-back"] == [SIZE - 4096] * 2


def test_a_card_that_holds_something_else_is_compared_as_any(
    make_card: MakeCard, older: ImageSource, newer: ImageSource
) -> None:
    card = make_card(size=SIZE)
    report, totals = flashed(card, newer, [older.pieces])
    assert (report.verdict, report.mode) == (Verdict.GOOD, WriteMode.ALL)
    assert "compare" not in totals


def test_a_card_that_holds_the_newer_one_already_is_only_read(
    card: Disk, older: ImageSource, newer: ImageSource
) -> None:
    flashed(card, newer)
    report, totals = flashed(card, newer, [newer.pieces, older.pieces])
    assert (report.verdict, report.mode, report.written) == (Verdict.GOOD, WriteMode.NOTHING, 0)
    assert totals["compare"][-1] == SIZE


def test_without_read_back_nothing_is_expected(card: Disk, older: ImageSource, newer: ImageSource) -> None:
    """Nobody would read what was only expected to be right: so all of it is compared."""
    flip(card, 50 * MIB + 777777)
    job = FlashJob(disk=card, source=newer, target=NO_NODE, verify=False, earlier=[older.pieces])
    report = flash(job, Silent(), threading.Event())
    assert (report.verdict, report.mode) == (Verdict.UNVERIFIED, WriteMode.DIFFERENCES)
    assert bmaptool_agrees(newer, card)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), lambda path: path.mkdir()])
def test_what_else_lies_among_the_maps_is_passed_over(
    older: ImageSource, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    kept = earlier_in(tmp_path, tmp_path)
    kept.keep("worker1", older)
    make(kept.folder / f"worker1-{'0' * 32}.bmap")
    kept.keep("worker1", older)
    assert kept.of("worker1") == [list(older.pieces)]


def test_maps_are_kept_by_digest_the_newest_first(
    older: ImageSource, newer: ImageSource, tmp_path: Path
) -> None:
    kept = BlockMapStore(tmp_path / "state" / "written", tmp_path)
    assert kept.of("worker1") == []
    kept.keep("worker1", older)
    kept.keep("worker1", newer)
    kept.keep("worker10", newer)
    kept.keep("worker1", older)  # the newest again
    assert kept.of("worker1") == [list(older.pieces), list(newer.pieces)]
    files = sorted(kept.folder.iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert kept.folder.stat().st_mode & 0o777 == 0o700


def test_few_maps_are_kept_and_damaged_ones_passed_over(older: ImageSource, tmp_path: Path) -> None:
    kept = BlockMapStore(tmp_path / "written", tmp_path)
    for number in range(KEPT + 2):
        source = replace(older, pieces=older.pieces[: number + 1])
        kept.keep("worker1", source)
    assert len(list(kept.folder.iterdir())) == KEPT
    assert [len(pieces) for pieces in kept.of("worker1")] == [KEPT + 2 - at for at in range(KEPT)]
    newest = max(kept.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes().replace(b"<Range", b"<Rang", 1))
    assert [len(pieces) for pieces in kept.of("worker1")] == [KEPT + 1 - at for at in range(KEPT - 1)]


def test_flash_keeps_the_map_and_uses_it(cluster: Path, make_card: MakeCard) -> None:
    """The whole command: flashed, the node built anew with one block changed, flashed again."""
    card = make_card()
    words = ("--progress", "json", "flash", card.node, "--node", "worker1", "--virtual", "--yes", "--json")
    assert piimg(cluster, *words).returncode == 0
    (state,) = (cluster / "state").iterdir()
    (kept,) = (state / "written").iterdir()
    assert kept.name.startswith("worker1-")
    image, source = cluster / "build" / "worker1.img", open_source(cluster / "build" / "worker1.img")
    content = bytearray(image.read_bytes())
    piece = source.pieces[-1]
    content[piece.start : piece.start + 4096] = os.urandom(4096)
    for path in (image, image.with_suffix(".bmap")):
        path.unlink()  # links to what all tests share
    image.write_bytes(content)
    ranges = [(one.start, one.end) for one in source.map]
    bmap.write(image.with_suffix(".bmap"), bmap.make(image, ranges))
    done = piimg(cluster, *words)
    assert done.returncode == 0
    (report,) = json.loads(done.stdout)["cards"]
    assert (report["verdict"], report["mode"], report["written"]) == ("good", "differences", HEAD + 4096)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    totals = {
        event["task"]: event["total"]
        for event in events
        if event.get("event") == "started" and "total" in event
    }
    assert totals["compare"] == piece.size
    assert bmaptool_agrees(open_source(image), card)
    assert len(list((state / "written").iterdir())) == 2
