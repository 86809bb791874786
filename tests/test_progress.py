"""The bars: in the order they were expected in, whichever card is quickest."""

import io
import re

from imagebuilder.cli.progress import Bars
from imagebuilder.events import Advanced, Finished, Started

CARDS = {"/dev/sdb": "/dev/sdb master", "/dev/sdc": "/dev/sdc worker1", "/dev/sdd": "/dev/sdd worker2"}


def test_bars_stand_in_the_order_of_the_cards() -> None:
    stream = io.StringIO()
    with Bars(stream) as bars:
        for device, title in CARDS.items():
            bars.expect(device, 1000, title)
        for device in reversed(CARDS):
            bars.emit(Started("write", device, 1000))
            bars.emit(Advanced("write", device, 1000, 1000))
            bars.emit(Finished("write", device))
    last = re.findall(r"/dev/sd. \w+", stream.getvalue())[-len(CARDS) :]
    assert last == list(CARDS.values())
