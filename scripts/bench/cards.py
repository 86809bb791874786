"""Virtual cards: sparse files behind loop devices with direct I/O, which bypass the host's page cache."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.throttle import Speed, throttled
from imagebuilder.system import loop

CARD_SIZE = 31914983424  # bytes; the size of a SanDisk 32 GB card
SECTOR = 512  # bytes; the unit of /sys/block/*/stat, whatever the device's own sector is

Prepare = Callable[[int, Path], None]


@dataclass(frozen=True)
class Card:
    """One virtual card: its loop device, the file behind it, and how fast it is."""

    device: Path
    file: Path
    speed: Speed

    def counters(self) -> tuple[int, int]:
        """Bytes read and written since the kernel came up, as the kernel counts them.

        Documentation/admin-guide/iostats.rst: fields 3 and 7 are sectors read and written.
        """
        fields = Path(f"/sys/block/{self.device.name}/stat").read_text().split()
        return int(fields[2]) * SECTOR, int(fields[6]) * SECTOR


@dataclass(frozen=True)
class Rig:
    """Cards, and the prefix for commands that the speed limits must apply to."""

    cards: Sequence[Card]
    prefix: Sequence[str]

    @property
    def devices(self) -> list[str]:
        """The paths of the cards' devices."""
        return [str(card.device) for card in self.cards]


@contextlib.contextmanager
def rig(
    folder: Path, speeds: Sequence[Speed], prepare: Prepare | None = None, *, memory: int = 0
) -> Iterator[Rig]:
    """As many cards as there are speeds, new (they read as zeros) unless ``prepare(index, file)`` fills them.

    The commands have ``memory`` bytes of it; 0 is no limit. At the end the cards are gone, whatever ends the
    block.
    """
    with contextlib.ExitStack() as stack:
        folder.mkdir(parents=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cards = []
        for index, speed in enumerate(speeds):
            file = folder / f"card{index + 1}"
            file.touch(0o600)
            if prepare:
                prepare(index, file)
            os.truncate(file, CARD_SIZE)
            cards.append(Card(stack.enter_context(loop.attached(file, direct_io=True)), file, speed))
        os.sync()  # the prepared data must not be written during the measurement
        prefix = stack.enter_context(throttled({card.device: card.speed for card in cards}, memory))
        yield Rig(cards, prefix)
