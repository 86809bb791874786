"""Cards in readers with sectors of 4096 bytes (4Kn), as real loop devices can have them."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict, WriteMode
from imagebuilder.card.source import ImageSource, open_source
from imagebuilder.card.write import FlashJob, Target, flash, verify
from imagebuilder.device.discovery import disk_at
from imagebuilder.device.identity import carried
from imagebuilder.device.policy import Reason, Refusal
from imagebuilder.events import Silent
from imagebuilder.image import allocation, bmap
from imagebuilder.system.process import run
from tests.integration.card.conftest import CARD_SIZE, mounted
from tests.integration.card.faults import first_wrong
from tests.integration.card.rig import MIB, bmaptool
from tests.integration.card.slots import Slot, slots

LARGE = 4096  # bytes


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """The file that is the card: full of ones where an image goes, so that a zero not written is seen."""
    file = tmp_path / "card"
    file.write_bytes(b"\xff" * (64 * MIB))
    os.truncate(file, CARD_SIZE)
    return file


@pytest.fixture
def slot(medium: Path, root: None) -> Iterator[Slot]:
    """A slot with the card in it; the reader has large sectors."""
    with slots(1) as (one,):
        one.put(medium, "--sector-size", str(LARGE))
        assert run(["blockdev", "--getss", one.node]).stdout.strip() == b"4096"
        yield one


def job(slot: Slot, source: ImageSource) -> FlashJob:
    return FlashJob(disk=disk_at(slot.node), source=source, target=Target("worker1", ""))


def test_a_card_in_a_reader_with_large_sectors(slot: Slot, medium: Path, source: ImageSource) -> None:
    """It holds the same bytes as any other card: a board reads it in sectors of 512 bytes."""
    report = flash(job(slot, source), Silent(), threading.Event())
    assert (report.verdict, report.error, report.mode, report.retries) == (Verdict.GOOD, "", WriteMode.ALL, 0)
    assert first_wrong(source, medium) is None
    assert bmaptool(source, slot.node)
    assert carried(slot.node).node == "worker1"
    assert verify(job(slot, source), Silent(), threading.Event()).verdict is Verdict.GOOD
    with medium.open("r+b") as stream:
        stream.seek(source.pieces[-1].start)
        stream.write(b"\x55")
    slot.take()
    slot.put(medium, "--sector-size", str(LARGE))
    report = flash(job(slot, source), Silent(), threading.Event())
    assert (report.verdict, report.mode, report.retries) == (Verdict.GOOD, WriteMode.DIFFERENCES, 0)
    assert first_wrong(source, medium) is None


def test_an_image_that_ends_inside_a_large_sector(slot: Slot, medium: Path, tmp_path: Path) -> None:
    """What is behind its end in the last sector becomes zeros: less cannot be written."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(3 * MIB + 512))
    report = flash(job(slot, open_source(image)), Silent(), threading.Event())
    assert (report.verdict, report.error) == (Verdict.GOOD, "")
    with medium.open("rb") as stream:
        assert stream.read(image.stat().st_size) == image.read_bytes()
        assert stream.read(LARGE) == bytes(LARGE - 512) + b"\xff" * 512


def test_a_block_map_with_small_blocks_is_refused(
    slot: Slot, medium: Path, images: Path, tmp_path: Path
) -> None:
    """Said before anything is written: bmaptool can be asked to make maps of small blocks."""
    image = tmp_path / "worker1.img"
    image.write_bytes((images / "worker1.img").read_bytes())
    whole = bmap.make(image, [(0, 512), (5 * 512, 9 * 512), *allocation.used_ranges(image)[1:]])
    bmap.write(image.with_suffix(".bmap"), replace(whole, block_size=512))
    before = medium.open("rb").read(64 * MIB)
    source = open_source(image)
    source = replace(
        source, pieces=tuple(piece for piece in source.pieces if piece.start % LARGE or piece.start)
    )
    report = flash(job(slot, source), Silent(), threading.Event())
    assert report.verdict is Verdict.FAILED
    assert report.error == f"{slot.node} has sectors of 4096 bytes, and the block map has smaller blocks"
    assert "sectors of 512 bytes" in report.hint
    assert medium.open("rb").read(64 * MIB) == before


def test_a_card_over_a_disk_with_large_sectors(slot: Slot, source: ImageSource, tmp_path: Path) -> None:
    """With small sectors it is cached by the host, which losetup does not say: then it is no card."""
    run(["mkfs.ext4", "-q", slot.node])
    with mounted(slot.node, tmp_path / "point") as point, slots(1) as (other,):
        card = point / "card"
        card.touch()
        os.truncate(card, 64 * MIB)
        for sector, verdict in ((512, Verdict.FAILED), (LARGE, Verdict.GOOD)):
            other.put(card, "--sector-size", str(sector))
            report = flash(job(other, source), Silent(), threading.Event())
            assert report.verdict is verdict, report.error
            assert (str(Refusal(Reason.CACHED)) in report.error) is (sector == 512)
            other.take()
        assert first_wrong(source, card) is None
