"""Cards that lie about their size, judged by f3probe too: f3's own cases, and smaller ones."""

import hashlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.source import HEAD, Piece
from imagebuilder.card.surface_test import examine
from imagebuilder.card.write import NO_NODE, FlashJob, flash
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Silent
from imagebuilder.image.content import ImageContent
from tests.integration.card.conftest import MIB, ROOT
from tests.integration.card.faults import Bench, tell
from tests.integration.card.rig import SIZE, below

pytestmark = pytest.mark.long

HEADING = "Cards that lie about their size"
GIB = 1 << 30
SOON = 5.0  # seconds; a fake is found before the long write


@dataclass(frozen=True)
class Card:
    """A card that says it has ``says`` bytes and keeps ``keeps``; ``f3`` is what f3probe calls it."""

    name: str
    keeps: int
    f3: str
    how: Mapping[str, int | str] = field(default_factory=dict)
    says: int = SIZE

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


# The unit test of f3probe 8.0 has these geometries (and one of 2 MiB, too small for any node image); those of
# its cards with a cache are here in small. What it calls damaged where a small card wraps round is no better.
CARDS = (
    Card("sound", SIZE, "real thing"),
    Card("sound, 1 GiB (f3)", GIB, "real thing", {"announced": GIB}, GIB),
    Card("wraps round at a power of two", 32 * MIB, "wraparound", {"wrap": 32 * MIB}),
    Card("wraps round elsewhere", 25 * MIB + 512, "damaged", {"wrap": 25 * MIB + 512}),
    Card("swallows, gives zeros", 24 * MIB, "limbo", {"limbo": 24 * MIB}),
    Card("swallows, gives ones", 24 * MIB + 512, "limbo", {"limbo": 24 * MIB + 512, "void": 255}),
    Card("swallows, with a cache", 24 * MIB, "limbo", {"limbo": 24 * MIB, "cache": MIB // 2}),
    Card("keeps nothing, 1 GiB (f3)", 0, "damaged", {"announced": GIB, "limbo": 0}, GIB),
    Card("gives zeros for everything", 0, "damaged", {"fault": "zeros"}),
    Card(
        "swallows, 1.7 of 32.5 GB (f3)",
        1777645568,
        "limbo",
        {"announced": 32505331712, "limbo": 1777645568},
        32505331712,
    ),
    Card(
        "swallows, 1 MiB of 1 TiB (f3)",
        MIB + 512,
        "limbo",
        {"announced": 1 << 40, "limbo": MIB + 512},
        1 << 40,
    ),
    Card(
        "wraps round, 2 of 16 GiB (f3)",
        2 * GIB,
        "wraparound",
        {"announced": 16 * GIB, "wrap": 2 * GIB},
        16 * GIB,
    ),
    Card(
        "wraps round and swallows, 2 of 16 GiB (f3)",
        2 * GIB,
        "chain",
        {"announced": 16 * GIB, "wrap": 4 * GIB, "limbo": 2 * GIB},
        16 * GIB,
    ),
)


@pytest.mark.parametrize("card", CARDS, ids=str)
def test_piimg_and_f3probe_agree_on_what_is_a_fake(bench: Bench, card: Card) -> None:
    disk = bench.make_faulty(**card.how)
    begun = time.monotonic()
    report = bench.flash(disk)
    seconds = time.monotonic() - begun
    if card.keeps == card.says:
        assert (report.verdict, report.error) == (Verdict.GOOD, "")
        reported = "–"
    else:
        assert report.verdict is Verdict.BAD
        assert seconds < SOON
        assert report.written == 0 or "elsewhere" in card.name, "it was found only after the long write"
        reported = reported_size(report, card)
    said = f3probe(bench.make_faulty(**card.how))
    assert card.f3 in said
    assert ("real thing" in said) is (report.verdict is Verdict.GOOD)
    tell(HEADING, card.name, report.verdict, reported, f"{card.f3}{f3_size(said)}")


def reported_size(report: CardReport, card: Card) -> str:
    """What the report says of how much the card keeps: never less than it does, and no more than it says."""
    found = re.search(r"keeps no more than (\d+) MiB", report.error)
    if not found:
        return "a byte that it does not keep"
    assert card.keeps <= (int(found[1]) + 1) * MIB <= card.says
    return f"keeps no more than {found[1]} MiB"


def f3probe(disk: Disk) -> str:
    """What f3probe says of a card: it needs no reset, which only USB readers have."""
    if shutil.which("f3probe") is None:
        pytest.skip("f3probe, the second opinion, is not installed: sudo apt-get install f3")
    command = ["f3probe", "--destructive", "--reset-type=2", str(disk.node)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    assert "news: " in said, said
    return said


def f3_size(said: str) -> str:
    """The size that f3probe says can be used."""
    found = re.search(r"\*Usable\* size: ([0-9.]+ \w+)", said)
    return f", {found[1]}" if found and "damaged" not in said and "real" not in said else ""


@pytest.mark.parametrize("how", [{"wrap": 8 * GIB}, {"limbo": 8 * GIB}], ids=str)
def test_a_fake_is_found_soon_on_a_slow_card(bench: Bench, how: Mapping[str, int]) -> None:
    disk = bench.make_faulty(announced=32 * GIB, **how)
    begun = time.monotonic()
    with throttled(disk, write=10 * MIB, read=40 * MIB):
        report = flash(FlashJob(disk=disk, source=bench.source, target=NO_NODE), Silent(), threading.Event())
    assert (report.verdict, report.written) == (Verdict.BAD, 0)
    assert 0.2 < time.monotonic() - begun < SOON


@contextmanager
def throttled(disk: Disk, **rates: int) -> Iterator[None]:
    """Give a card the speed of a slow one: bytes a second for ``write`` and ``read`` (cgroup v1, blkio)."""
    files = {Path(f"/sys/fs/cgroup/blkio/blkio.throttle.{way}_bps_device"): rates[way] for way in rates}
    if not all(file.exists() for file in files):
        pytest.skip("no blkio controller of cgroup v1, whose root group slows down devices")
    try:
        for file, rate in files.items():
            file.write_text(f"{disk.number} {rate}")
        yield
    finally:
        for file in files:
            file.write_text(f"{disk.number} 0")


def test_a_cache_that_all_fits_into_is_seen_through_by_the_full_test(bench: Bench) -> None:
    """While all that was written beyond the card's real end is still in its cache, the card gives it back."""
    how: dict[str, int | str] = {"limbo": 24 * MIB, "cache": 4 * MIB}
    exam = examine(bench.make_faulty(**how), Silent(), threading.Event())
    assert exam.verdict is Verdict.BAD
    assert exam.offset == 24 * MIB
    assert exam.kept <= 28 * MIB
    said = f3probe(bench.make_faulty(**how))
    assert "limbo" in said
    reported = f"kept {exam.kept >> 20} MiB"
    tell(
        HEADING,
        "swallows, with a larger cache: `piimg cards --test DEVICE`",
        exam.verdict,
        reported,
        f"limbo{f3_size(said)}",
    )


def test_a_fake_that_was_flashed_before_is_found_again(bench: Bench) -> None:
    """Half of it is found right and would be believed; what is written to the other half would spoil it."""
    for wrap in (24 * MIB, 25 * MIB + 512, 26 * MIB + 4096 + 512):
        disk = bench.make_faulty(wrap=wrap)
        image = bench.image
        with below(disk).open("r+b") as medium:
            medium.write(image[:wrap])
        for _ in range(3):
            report = bench.flash(disk)
            assert report.verdict is Verdict.BAD, f"wraps round at {wrap}"


@pytest.mark.parametrize("zeros", [False, True])
def test_a_fake_that_only_the_head_runs_into_is_bad(bench: Bench, tmp_path: Path, zeros: bool) -> None:
    """The rest is found right, zeros above all, wherever they went; and it is what the head would spoil."""
    image = tmp_path / "worker1.img"
    image.write_bytes(bench.image[:ROOT] + bytes(MIB) + bench.image[ROOT + MIB :] if zeros else bench.image)
    whole = Piece(ROOT, ROOT + MIB, hashlib.sha256(image.read_bytes()[ROOT : ROOT + MIB]).digest())
    head = [piece for piece in bench.source.pieces if piece.end <= HEAD]
    source = replace(bench.source, content=ImageContent(image, bench.source.size), pieces=(*head, whole))
    disk = bench.make_faulty(wrap=ROOT)
    report = flash(FlashJob(disk=disk, source=source, target=NO_NODE), Silent(), threading.Event())
    assert report.verdict is Verdict.BAD
    bench.check_head(disk, report)
