"""The full test of a card: write and read back all of it, to measure its real capacity and its speed.

All data on the card is erased. Every block of 4 KiB contains its own offset and then random bytes, so that a
block that was stored elsewhere, or an older block, is detected, as with f3write and f3read.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from imagebuilder.card.io import BadCard, CardError, OpenCard, opened
from imagebuilder.card.progress import READ_BACK, WRITE, Meter
from imagebuilder.card.report import Verdict, problem_of, verdict_of
from imagebuilder.card.shared import SharedPieces
from imagebuilder.card.source import HEAD, Piece, cut
from imagebuilder.card.write import PATIENCE
from imagebuilder.device.discovery import Disk
from imagebuilder.device.reference import DiskRef, reference
from imagebuilder.errors import PiimgError
from imagebuilder.events import Reporter
from imagebuilder.image.bmap import PIECE

_BLOCK = 4096  # bytes
_FAKE = "it is a fake or worn out: do not use it"


@dataclass(frozen=True)
class Exam(DiskRef):
    """The result of a full test. Sizes in bytes, rates in bytes per second.

    ``kept`` is the number of bytes, of ``size``, that were read back as they were written; ``offset`` is the
    first byte that was not. ``error`` is empty when the card is good; ``problem`` is the same without the
    name of the card.
    """

    verdict: Verdict
    kept: int
    write_rate: float
    read_rate: float
    seconds: float
    offset: int | None = None
    error: str = ""
    hint: str = ""
    problem: str = ""


def examine(disk: Disk, reporter: Reporter, stop: threading.Event, patience: float = PATIENCE) -> Exam:
    """Write and read back all of a card. The result contains any error."""
    meter, kept = Meter(str(disk.node), reporter, stop), 0
    error: PiimgError | None = None
    verdict = Verdict.GOOD
    try:
        with opened(disk, write=True, patience=patience) as card:
            meter.heed_stop()
            meter.touched = True
            try:
                kept = _written_and_read(meter, card)
                card.check_alone()
            finally:
                with contextlib.suppress(CardError):  # leave no bytes that look like a partition table
                    card.write(Piece(0, min(HEAD, card.size)), bytes(min(HEAD, card.size)))
                    card.flush()
            card.hand_over()
    except Exception as failure:
        verdict, error = verdict_of(failure, str(disk.node))
        kept = failure.kept if isinstance(failure, _Incomplete) else 0
    return Exam(
        **vars(reference(disk)),
        verdict=verdict,
        kept=kept,
        write_rate=round(meter.mean(WRITE) or 0),
        read_rate=round(meter.mean(READ_BACK) or 0),
        seconds=round(meter.elapsed, 3),
        offset=error.offset if isinstance(error, CardError) else None,
        error=error.message if error else "",
        problem=problem_of(error) if error else "",
        hint=error.hint if error else "",
    )


class _Incomplete(BadCard):
    """A card kept only ``kept`` of the written bytes."""

    def __init__(self, card: OpenCard, kept: int, offset: int) -> None:
        super().__init__(
            card.node, f"claims {card.size >> 20} MiB, and kept {kept >> 20} MiB of them", _FAKE, offset
        )
        self.kept = kept


def _written_and_read(meter: Meter, card: OpenCard) -> int:
    """Write and read all of the card; returns its size in bytes. Raises _Incomplete or CardError."""
    size = card.size
    noise = bytearray(os.urandom(PIECE))
    noise[510:512] = bytes(2)
    meter.ahead[READ_BACK] = size

    def fill(piece: Piece, data: memoryview) -> None:
        _fill(piece, data, noise)

    with (
        meter.task(WRITE, size) as task,
        contextlib.closing(card.writes(_all(size), fill, SharedPieces(0))) as written,
    ):
        for piece, _, error in written:
            if error is not None:
                problem = f"writing failed at byte {piece.start}: {error.strerror}"
                raise CardError(card.node, problem, offset=piece.start, joint=": ")
            task.advance(piece.size)
        card.flush()
    wanted = memoryview(bytearray(PIECE))
    kept, first = 0, size
    with meter.task(READ_BACK, size) as task, contextlib.closing(card.reads(_all(size))) as read:
        for piece, data, error in read:
            _fill(piece, wanted, noise)
            for at in range(0, piece.size, _BLOCK):
                if error is None and data[at : at + _BLOCK] == wanted[at : min(at + _BLOCK, piece.size)]:
                    kept += min(_BLOCK, piece.size - at)
                else:
                    first = min(first, piece.start + at)
            task.advance(piece.size)
    if kept < size:
        raise _Incomplete(card, kept, first)
    return kept


def _all(size: int) -> Iterator[Piece]:
    return (Piece(start, end) for start, end in cut(0, size))


def _fill(piece: Piece, data: memoryview, noise: bytearray) -> None:
    data[: piece.size] = noise[: piece.size]
    for at in range(0, piece.size, _BLOCK):
        data[at : at + 8] = (piece.start + at).to_bytes(8, "little")
