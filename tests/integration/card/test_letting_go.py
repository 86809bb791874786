"""Nothing of a card is kept in memory once it has its verdict, whatever that is: a station lives long."""

import gc
import threading
import weakref
from pathlib import Path

import pytest

from imagebuilder.card import write
from imagebuilder.card.io import BadCard, OpenCard
from imagebuilder.card.report import Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.card.write import NO_NODE, FlashJob
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Silent
from imagebuilder.image.bmap import BlockMap
from imagebuilder.image.content import ImageContent
from tests.integration.card.faults import Bench


class Held:
    """What the work on a card holds, such as buffers."""


def test_an_error_keeps_nothing_of_the_work_that_it_ended() -> None:
    held: list[weakref.ref[Held]] = []

    def work(_: object) -> None:
        buffers = Held()
        held.append(weakref.ref(buffers))
        bad = BadCard(Path("/dev/none"), "is bad", "use another", 5)
        raise bad

    disk = Disk(Path("/dev/none"), "7:4095", 1 << 20, "loop", "none")
    source = ImageSource(
        "none.img", ImageContent(Path("none.img"), 1 << 20), BlockMap(1 << 20, 4096, "sha256", ()), ()
    )
    gc.collect()
    gc.disable()
    try:
        report = write._run_job(
            "flash",
            work,
            FlashJob(disk=disk, source=source, target=NO_NODE),
            Silent(),
            threading.Event(),
            Verdict.GOOD,
        )
        assert (report.verdict, report.offset) == (Verdict.BAD, 5)
        assert held[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("fault", "place"), [("write-error", "body"), ("read-error", "body"), ("flip-on-write", "head")]
)
def test_a_card_that_failed_is_let_go_of_at_once(bench: Bench, fault: str, place: str) -> None:
    """Not only when the collector of reference cycles comes: a card's buffers have MiB, and it comes late."""
    disk = bench.make_faulty(fault=fault, at=450 if place == "head" else bench.noise(2))
    gc.collect()
    gc.disable()
    try:
        report = bench.flash(disk)
        kept = [get_object for get_object in gc.get_objects() if isinstance(get_object, OpenCard)]
    finally:
        gc.enable()
    assert not report.done
    assert kept == []
