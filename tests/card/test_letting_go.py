"""Nothing of a card is kept in memory once it has its verdict, whatever that is: a station lives long."""

import gc
import threading
import weakref
from pathlib import Path

from imagebuilder.card import write
from imagebuilder.card.find import Disk
from imagebuilder.card.opened import BadCard
from imagebuilder.card.report import Verdict
from imagebuilder.card.source import Source
from imagebuilder.card.write import FlashJob
from imagebuilder.events import Silent
from imagebuilder.image.bmap import BlockMap


class Held:
    """What the work on a card holds, such as buffers."""


def test_an_error_keeps_nothing_of_the_work_that_it_ended() -> None:
    held: list[weakref.ref[Held]] = []

    def work(_: object) -> None:
        buffers = Held()
        held.append(weakref.ref(buffers))
        bad = BadCard("it is bad", "use another", 5)
        raise bad

    disk = Disk(Path("/dev/none"), "7:4095", 1 << 20, "loop", "none")
    source = Source(Path("none.img"), BlockMap(1 << 20, 4096, "sha256", ()), ())
    gc.collect()
    gc.disable()
    try:
        report = write._judged(
            "flash", work, FlashJob(disk, source), Silent(), threading.Event(), Verdict.GOOD
        )
        assert (report.verdict, report.offset) == (Verdict.BAD, 5)
        assert held[0]() is None
    finally:
        gc.enable()
