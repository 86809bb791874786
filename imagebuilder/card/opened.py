"""One card, held open for oneself alone: written and read past the page cache, in whole sectors."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.card.find import Disk, changed
from imagebuilder.card.judge import CACHED
from imagebuilder.errors import PiimgError
from imagebuilder.image.bmap import PIECE
from imagebuilder.system import blockdev

_GRAIN = 4096  # bytes; how closely a place that cannot be read or written is told
_PULLED = "was the card pulled out? Put it in again, or try another card or reader"


class CardError(PiimgError):
    """A card could not be written to, or could not be flushed. ``offset`` is the first byte it failed at."""

    def __init__(self, message: str, hint: str = _PULLED, offset: int | None = None) -> None:
        super().__init__(message, hint)
        self.offset = offset


class BadCard(CardError):
    """A card does not give back what was written to it, from byte ``offset`` on."""


@dataclass(frozen=True)
class OpenCard:
    """An open card. ``sector`` is its logical sector in bytes; ``buffer`` holds what was read back."""

    node: Path
    handle: int
    sector: int
    size: int
    buffer: memoryview = field(repr=False, default_factory=lambda: blockdev.buffer(PIECE))

    def padded(self, length: int) -> int:
        """``length`` rounded up to whole sectors: direct I/O knows no other."""
        return -(-length // self.sector) * self.sector

    def write(self, data: memoryview, start: int, end: int) -> None:
        """Write bytes ``start`` to ``end`` from the aligned buffer ``data``; a last part sector is filled up.

        Raises CardError with the first place that cannot be written.
        """
        length = self.padded(end - start)
        data[end - start : length] = bytes(length - (end - start))
        try:
            blockdev.write_at(self.handle, data[:length], start)
        except OSError as error:
            where = _first_failing(
                lambda view, at: blockdev.write_at(self.handle, view, at), data[:length], start
            )
            raise CardError(
                f"{self.node}: writing failed at byte {where}: {error.strerror}", offset=where
            ) from error

    def read_back(self, start: int, end: int) -> memoryview:
        """Bytes ``start`` to ``end`` from the card itself. Raises BadCard with the first place that fails."""
        data = self.buffer[: self.padded(end - start)]
        try:
            blockdev.read_at(self.handle, data, start)
        except OSError as error:
            where = _first_failing(lambda view, at: blockdev.read_at(self.handle, view, at), data, start)
            raise BadCard(
                f"{self.node}: reading back failed at byte {where}: {error.strerror}", offset=where
            ) from error
        return data[: end - start]

    def fill_head(self, content: bytes) -> None:
        """Put ``content`` (whole sectors, no partition table) at the start and flush: it boots no more."""
        data = blockdev.buffer(len(content))
        data[:] = content
        self.write(data, 0, len(content))
        self.flush()

    def flush(self) -> None:
        """Wait until everything is on the card. Raises CardError."""
        try:
            blockdev.flush(self.handle)
        except OSError as error:
            raise CardError(
                f"{self.node}: the card did not take what was written: {error.strerror}"
            ) from error


def _first_failing(operation: Callable[[memoryview, int], None], data: memoryview, start: int) -> int:
    """Try again in small steps, and say at which byte it fails; ``start`` if it does not any more."""
    for position in range(0, len(data), _GRAIN):
        try:
            operation(data[position : position + _GRAIN], start + position)
        except OSError:
            return start + position
    return start


@contextlib.contextmanager
def opened(disk: Disk, *, write: bool) -> Iterator[OpenCard]:
    """Open the card that the user was shown, and make sure that it still is that card.

    Raises PiimgError when it is another one, is in use, or may not be opened.
    """
    if not disk.direct:
        raise PiimgError(f"{disk.node} is not used: {CACHED}")
    with blockdev.opened(disk.node, write=write) as handle:
        card = OpenCard(disk.node, handle, blockdev.sector_size(handle), blockdev.size(handle))
        seen = (blockdev.number(handle), blockdev.size(handle), blockdev.diskseq(handle) or disk.diskseq)
        differs = list(changed(disk))
        if seen != (disk.number, disk.size, disk.diskseq or seen[2]) or differs:
            raise PiimgError(
                f"{disk.node} is not the card any more that you were asked about"
                + (f": {'; '.join(differs)}" if differs else ""),
                "look again with: piimg cards",
            )
        if write and blockdev.read_only(handle):
            raise PiimgError(
                f"{disk.node} is write-protected", "look at the slider on the card or its adapter"
            )
        yield card
