"""The engine: one node image onto one card, written, flushed, read back and judged.

The order is what keeps a card that is not good from booting: first the first MiB loses its partition table,
then everything behind it is written, flushed and read back past the page cache, and only then is the first
MiB written, flushed and read back in its turn. What goes wrong in between leaves a card without a table.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from imagebuilder.card.find import Disk
from imagebuilder.card.opened import BadCard, CardError, OpenCard, opened
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.source import HEAD, Piece, Source, first_difference, pieces
from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.events import Advanced, Finished, Reporter, Started
from imagebuilder.image.bmap import PIECE
from imagebuilder.system import blockdev

_BAD = "use another card; if that one fails too, another reader"


@dataclass(frozen=True)
class FlashJob:
    """One card and what it is to hold. ``node`` is empty for an image that belongs to no node."""

    disk: Disk
    source: Source
    node: str = ""
    verify: bool = True


@dataclass
class _Work:
    """What was done to one card so far; becomes its report."""

    job: FlashJob
    reporter: Reporter
    stop: threading.Event
    touched: bool = False
    written: int = 0
    read_back: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[None]:
        """Tell the reporter of a task, and take its time."""
        subject, begun, ok = str(self.job.disk.node), time.monotonic(), False
        self.reporter.emit(Started(name, subject, total))
        try:
            yield
            ok = True
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
            self.reporter.emit(Finished(name, subject, ok))

    def advance(self, name: str, done: int, total: int) -> None:
        """Tell how far a task is; the place where a wish to stop is heard."""
        self.reporter.emit(Advanced(name, str(self.job.disk.node), done, total))
        self.heed_stop()

    def heed_stop(self) -> None:
        if self.stop.is_set():
            state = "it does not boot until it is flashed again" if self.touched else "it is as it was"
            raise Interrupted(f"interrupted: {state}", "start it again when you are ready")


def flash(job: FlashJob, reporter: Reporter, stop: threading.Event) -> CardReport:
    """Write a node image to a card and read it back. Whatever happens to the card is in the report."""
    work = _Work(job, reporter, stop)
    good = Verdict.GOOD if job.verify else Verdict.UNVERIFIED
    return _judged(work, lambda: _flash(work), good)


def verify(job: FlashJob, reporter: Reporter, stop: threading.Event) -> CardReport:
    """Compare a card with an image, every byte in use; nothing is written."""
    work = _Work(job, reporter, stop)
    return _judged(work, lambda: _verify(work), Verdict.GOOD)


def _flash(work: _Work) -> None:
    source = work.job.source
    with opened(work.job.disk, write=True) as card:
        _check_size(card, source)
        work.heed_stop()
        head = blockdev.buffer(card.padded(min(HEAD, source.size)))
        mark = _mark(len(head))
        work.touched = True
        try:
            card.fill_head(mark)
            body = _write_body(work, card, head)
            if work.job.verify:
                _read_body(work, card, body)
                _check_mark(card, mark)
            _write_head(work, card, head)
        except BaseException:
            with contextlib.suppress(PiimgError):
                card.fill_head(bytes(len(head)))
            raise


def _mark(length: int) -> bytes:
    """What stands in the head while the body is written: random, so that no block of an image equals it.

    It has no MBR signature (bytes 510 and 511), so that a card does not boot if the power goes now.
    """
    mark = bytearray(os.urandom(length))
    mark[510:512] = bytes(2)
    return bytes(mark)


def _write_body(work: _Work, card: OpenCard, head: memoryview) -> list[Piece]:
    """Write all that is in use behind the head, and flush; gather what belongs into the head."""
    source, data, body = work.job.source, blockdev.buffer(PIECE), []
    with work.task("write", source.body):
        for piece in pieces(source, data):
            if piece.start < HEAD:
                head[piece.start : piece.end] = data[: piece.size]
                continue
            _check_aligned(card, piece)
            card.write(data, piece.start, piece.end)
            body.append(piece)
            work.written += piece.size
            work.advance("write", work.written, source.body)
        card.flush()
    return body


def _read_body(work: _Work, card: OpenCard, body: list[Piece]) -> None:
    with work.task("read-back", work.job.source.body):
        for piece in body:
            _read_back(work, card, piece)
            work.advance("read-back", work.read_back, work.job.source.body)


def _check_mark(card: OpenCard, mark: bytes) -> None:
    """A card of less capacity than it says may have put something of the body where the head belongs."""
    index = first_difference(bytes(card.read_back(0, len(mark))), mark)
    if index is not None:
        raise BadCard(f"{card.node} holds at byte {index} what was written elsewhere: a fake?", _BAD, index)


def _write_head(work: _Work, card: OpenCard, head: memoryview) -> None:
    """Make the card bootable: the last thing done to it."""
    length = min(HEAD, work.job.source.size)
    wanted = bytes(head[:length])
    card.write(head, 0, length)
    card.flush()
    work.written += length
    if work.job.verify:
        _read_back(work, card, Piece(0, length, hashlib.sha256(wanted).digest()), wanted)


def _verify(work: _Work) -> None:
    source, data = work.job.source, blockdev.buffer(PIECE)
    with opened(work.job.disk, write=False) as card:
        _check_size(card, source)
        with work.task("read-back", source.map.used):
            for piece in pieces(source, data):
                _check_aligned(card, piece)
                _read_back(work, card, piece)
                work.advance("read-back", work.read_back, source.map.used)


def _read_back(work: _Work, card: OpenCard, piece: Piece, wanted: bytes | None = None) -> None:
    """Read a piece from the card and judge it. Raises BadCard with the first byte that is wrong."""
    have = card.read_back(piece.start, piece.end)
    work.read_back += piece.size
    if hashlib.sha256(have).digest() == piece.digest:
        return
    image = work.job.source.path
    index = first_difference(bytes(have), wanted or work.job.source.read(piece.start, piece.end))
    if index is None:
        raise PiimgError(f"{image} was changed meanwhile", "build it again, then flash again")
    offset = piece.start + index
    raise BadCard(f"{card.node} does not hold what it should from byte {offset} on", _BAD, offset)


def _check_size(card: OpenCard, source: Source) -> None:
    if card.size < card.padded(source.size):
        raise PiimgError(
            f"{card.node} is too small: {card.size} bytes, and {source.path.name} has {source.size}",
            "take a larger card",
        )


def _check_aligned(card: OpenCard, piece: Piece) -> None:
    if piece.start % card.sector:
        raise PiimgError(
            f"{card.node} has sectors of {card.sector} bytes, and the block map has smaller blocks",
            "use a card or reader with sectors of 512 bytes",
        )


def _judged(work: _Work, action: Callable[[], None], good: Verdict) -> CardReport:
    begun = time.monotonic()
    error: PiimgError | None = None
    try:
        action()
        verdict = good
    except Interrupted as stopped:
        verdict, error = Verdict.INTERRUPTED, stopped
    except BadCard as bad:
        verdict, error = Verdict.BAD, bad
    except PiimgError as failed:
        verdict, error = Verdict.FAILED, failed
    except Exception as failed:  # whatever it is, it must not cost the other cards their reports
        verdict, error = Verdict.FAILED, PiimgError(f"{work.job.disk.node}: {failed!r}", "try again")
    return _report(work, verdict, error, time.monotonic() - begun)


def _report(work: _Work, verdict: Verdict, error: PiimgError | None, seconds: float) -> CardReport:
    job, disk = work.job, work.job.disk
    offset = error.offset if isinstance(error, CardError) else None
    return CardReport(
        device=str(disk.node),
        slot=disk.slot,
        model=disk.model,
        serial=disk.serial,
        size=disk.size,
        node=job.node,
        image=str(job.source.path),
        verdict=verdict,
        written=work.written,
        read_back=work.read_back,
        seconds=round(seconds, 3),
        write_rate=_rate(work.written, work.seconds.get("write", 0.0)),
        read_rate=_rate(work.read_back, work.seconds.get("read-back", 0.0)),
        error=error.message if error else "",
        hint=error.hint if error else "",
        offset=offset,
        partition=None if offset is None else job.source.partition_at(offset),
    )


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds) if seconds > 0 else 0.0
