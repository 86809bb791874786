"""Cards that fail and cards that lie: real loop devices over nbdkit with a fault in it."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.batch import run as run_batch
from imagebuilder.card.find import Disk, find_disks
from imagebuilder.card.holdings import holdings_of, read_host
from imagebuilder.card.report import Verdict
from imagebuilder.card.source import Source, open_source
from imagebuilder.card.write import FlashJob, flash
from imagebuilder.events import Silent
from imagebuilder.image.bmap import Range
from tests.card.conftest import MIB, ROOT, MakeCard
from tests.card.rig import Rig
from tests.card.test_write import Meddler, bmaptool_agrees


def below(disk: Disk) -> Path:
    """The file that a faulty card keeps its bytes in."""
    return Path(disk.backing).parent.with_name("data")


def looks_bootable(disk: Disk) -> bool:
    """Whether there is a partition table beneath the fault."""
    with below(disk).open("rb") as stream:
        return stream.read(512)[510:] == b"\x55\xaa"


def used_byte(source: Source, near: int) -> int:
    """A byte in use at or behind ``near``, not at the edge of a block."""
    return next(max(one.start, near) for one in source.map if one.end > near) // 4096 * 4096 + 2048 + 7


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("write-error", Verdict.FAILED),
        ("read-error", Verdict.BAD),
        ("lost-write", Verdict.BAD),
        ("flip-on-write", Verdict.BAD),
        ("flip-on-read", Verdict.BAD),
        ("torn-write", Verdict.BAD),
    ],
)
def test_a_fault_is_found_and_told_where(
    make_faulty: Rig, source: Source, fault: str, verdict: Verdict
) -> None:
    at = used_byte(source, ROOT + 4 * MIB)
    disk = make_faulty(fault=fault, at=at)
    report = flash(FlashJob(disk, source), Silent(), threading.Event())
    assert report.verdict is verdict, report.error
    assert report.partition == 2
    assert report.offset is not None
    assert at - (4 * MIB if fault == "lost-write" else 4095) <= report.offset <= at
    assert str(report.offset) in report.error
    assert not looks_bootable(disk)


@pytest.mark.parametrize(
    "fault", ["write-error", "lost-write", "flip-on-write", "flip-on-read", "read-error"]
)
def test_a_fault_in_the_first_sectors_leaves_no_bootable_card(
    make_faulty: Rig, source: Source, fault: str
) -> None:
    disk = make_faulty(fault=fault, at=450)
    report = flash(FlashJob(disk, source), Silent(), threading.Event())
    assert report.verdict in (Verdict.BAD, Verdict.FAILED)
    assert report.offset is not None
    assert report.offset < 4096
    assert report.partition is None
    assert not looks_bootable(disk)


def test_a_card_with_a_fake_capacity_is_bad(make_faulty: Rig, source: Source) -> None:
    disk = make_faulty(wrap=24 * MIB)
    report = flash(FlashJob(disk, source), Silent(), threading.Event())
    assert report.verdict is Verdict.BAD
    assert not bmaptool_agrees(source, disk)


def test_a_fake_capacity_that_only_the_head_runs_into_is_bad(make_faulty: Rig, source: Source) -> None:
    """The rest is found right, and would be spoilt by what is written last."""
    disk = make_faulty(wrap=ROOT)
    head_and_a_block = (Range(0, MIB, ""), Range(ROOT, ROOT + MIB, ""))
    sparse = replace(source, map=replace(source.map, ranges=head_and_a_block))
    report = flash(FlashJob(disk, sparse), Silent(), threading.Event())
    assert report.verdict is Verdict.BAD
    assert not looks_bootable(disk)


def test_a_fake_capacity_is_found_even_by_a_block_of_zeros(
    make_faulty: Rig, source: Source, tmp_path: Path
) -> None:
    """Zeros read back as zeros wherever they went; what they displaced tells."""
    image = tmp_path / "zeros.img"
    image.write_bytes(source.path.read_bytes())
    with image.open("r+b") as stream:
        stream.seek(ROOT)
        stream.write(bytes(MIB))
    disk = make_faulty(wrap=ROOT)
    head_and_zeros = (Range(0, MIB, ""), Range(ROOT, ROOT + MIB, ""))
    zeros = replace(source, path=image, map=replace(source.map, ranges=head_and_zeros))
    report = flash(FlashJob(disk, zeros), Silent(), threading.Event())
    assert report.verdict is Verdict.BAD
    assert not looks_bootable(disk)


def test_without_read_back_nobody_says_good(make_faulty: Rig, source: Source) -> None:
    disk = make_faulty(fault="flip-on-write", at=used_byte(source, ROOT))
    report = flash(FlashJob(disk, source, verify=False), Silent(), threading.Event())
    assert (report.verdict, report.read_back) == (Verdict.UNVERIFIED, 0)


def test_one_bad_card_leaves_the_others_alone(make_faulty: Rig, make_card: MakeCard, images: Path) -> None:
    bad = make_faulty(fault="write-error", at=ROOT + 4 * MIB)
    cards = [make_card(), bad, make_card()]
    sources = [open_source(images / f"{node}.img") for node in ("master", "worker1", "worker2")]
    jobs = [FlashJob(disk, source) for disk, source in zip(cards, sources, strict=True)]
    reports = run_batch(jobs, Silent(), threading.Event())
    assert [one.verdict for one in reports] == [Verdict.GOOD, Verdict.FAILED, Verdict.GOOD]
    assert [one.device for one in reports] == [str(disk.node) for disk in cards]
    assert bmaptool_agrees(sources[0], cards[0])
    assert bmaptool_agrees(sources[2], cards[2])


@pytest.mark.parametrize(("task", "verdict"), [("write", Verdict.FAILED), ("read-back", Verdict.BAD)])
def test_a_card_pulled_out_is_told(make_faulty: Rig, source: Source, task: str, verdict: Verdict) -> None:
    disk = make_faulty()
    reporter = Meddler(task, source.body // 2, lambda: make_faulty.pull(disk))
    report = flash(FlashJob(disk, source), reporter, threading.Event())
    assert report.verdict is verdict
    assert "Input/output error" in report.error
    assert not looks_bootable(disk)
    assert disk.node in [other.node for other in find_disks(virtual=True)]
    assert holdings_of(disk.node.name, read_host()) == []  # a dead card does not stop the search
