"""The engine: one node image onto one card, written, flushed, read back and judged.

The order is what keeps a card that is not good from booting. What is right on it already is found first, by
reading only. Then the first MiB loses its partition table; the card's capacity is probed; all that is wrong
behind the first MiB is written, flushed and read back past the page cache; and only then is the first MiB
written, flushed and read back in its turn. What goes wrong in between leaves a card without a table. A run
that was broken off needs no record of how far it came: the next one looks at the card.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from imagebuilder.card import again
from imagebuilder.card.carried import unfinished_line
from imagebuilder.card.compare import time_reading, what_differs
from imagebuilder.card.contents import Contents
from imagebuilder.card.find import Disk
from imagebuilder.card.meter import COMPARE, FLASH, PROBE, READ_BACK, VERIFY, WRITE, Meter
from imagebuilder.card.opened import BadCard, CardError, OpenCard, Unreadable, opened
from imagebuilder.card.probe import check_capacity, check_no_echo, places
from imagebuilder.card.report import CardReport, Verdict, Way, verdict_of
from imagebuilder.card.source import HEAD, Piece, Reading, Source
from imagebuilder.errors import PiimgError
from imagebuilder.events import Finished, Reporter, Started
from imagebuilder.image.whose import file_at

PATIENCE = 60.0  # seconds; the kernel gives a USB reader up after 30
_TABLE = 4096  # bytes; the block with the partition table, as large as the largest sector


@dataclass(frozen=True)
class FlashJob:
    """One card and what it is to hold. ``node`` is empty for an image that belongs to no node.

    ``verify`` reads back what was written; ``full`` writes everything without comparing first; ``patience``
    is how many seconds one read or write may take. ``contents`` is shared by the cards of a run. ``cluster``
    is whose node it is, where that is known.
    """

    disk: Disk
    source: Source
    node: str = ""
    verify: bool = True
    full: bool = False
    patience: float = PATIENCE
    contents: Contents = field(default_factory=Contents, compare=False)
    cluster: str = ""


@dataclass
class _Work:
    """What was done to one card so far; becomes its report."""

    job: FlashJob
    meter: Meter
    way: Way | None = None
    written: int = 0
    skipped: int = 0
    read_back: int = 0


def flash(job: FlashJob, reporter: Reporter, stop: threading.Event) -> CardReport:
    """Write a node image to a card and read it back. Whatever happens to the card is in the report."""
    return _judged(FLASH, _flash, job, reporter, stop, Verdict.GOOD if job.verify else Verdict.UNVERIFIED)


def verify(job: FlashJob, reporter: Reporter, stop: threading.Event) -> CardReport:
    """Compare a card with an image, every byte in use; nothing is written."""
    return _judged(VERIFY, _verify, job, reporter, stop, Verdict.GOOD)


def _flash(work: _Work) -> None:
    job = work.job
    with opened(job.disk, write=True, patience=job.patience) as card, job.source.opened() as reading:
        _check_fits(card, job.source)
        work.meter.heed_stop()
        todo = _todo(work, card, reading)
        if todo:
            _write(work, card, reading, [piece for piece in todo if piece.start >= HEAD])
        card.check_same()


def _todo(work: _Work, card: OpenCard, reading: Reading) -> list[Piece]:
    """What is to be written: all that is in use, or what differs."""
    source = work.job.source
    if work.job.full:
        todo = list(source.pieces)
    else:
        todo = what_differs(work.meter, card, source, reading, work.job.contents)
    if todo:
        todo = [*todo, *_marked(card, source, reading, todo)]
    body = sum(piece.size for piece in todo if piece.start >= HEAD)
    work.skipped = source.body - body if todo else source.used
    work.way = Way.NOTHING if not todo else Way.DIFFERENCES if work.skipped else Way.ALL
    if work.way is Way.ALL and work.job.verify:
        time_reading(work.meter, card, source.pieces)
    return todo


def _marked(card: OpenCard, source: Source, reading: Reading, todo: Sequence[Piece]) -> Iterator[Piece]:
    """What is in use where the markers of the probe go, unless ``todo`` has it in any case."""
    for place in places(card.size):
        for piece in source.pieces:
            start, end = max(place.start, piece.start), min(place.end, piece.end)
            if start < end and not any(one.start <= start and end <= one.end for one in todo):
                content = reading.bytes_of(piece)[start - piece.start : end - piece.start]
                yield Piece(start, end, hashlib.sha256(content).digest())


def _write(work: _Work, card: OpenCard, reading: Reading, body: list[Piece]) -> None:
    """Write ``body``, read it back, then write the head. What fails leaves a head without partition table."""
    source = work.job.source
    mark = _mark(card.padded(min(HEAD, source.size)), unfinished_line(work.job.node, work.job.cluster))
    whole = Piece(0, len(mark))
    work.meter.touched = True
    work.meter.ahead[READ_BACK] = sum(piece.size for piece in body) if work.job.verify else 0
    try:
        again.write(work.meter, card, whole, mark)
        card.flush()
        with work.meter.task(PROBE, len(mark)):
            check_capacity(work.meter, card, mark)
            check_no_echo(card, mark, source.size)
        _write_body(work, card, reading, body)
        if work.job.verify:
            _read_body(work, card, reading, body)
        _check_mark(work, card, whole, mark)
        _write_head(work, card, _head(source, reading))
    except BaseException:
        with contextlib.suppress(PiimgError):
            card.write(whole, bytes(len(mark)))
            card.flush()
        raise


def _mark(length: int, line: bytes) -> bytes:
    """What stands in the head while the body is written: random, so that no block of an image equals it.

    ``line`` comes first and says what the card is to become, for whoever finds it after the power went. It
    has no MBR signature (bytes 510 and 511), so that the card does not boot then.
    """
    mark = bytearray(line + os.urandom(length - len(line)))
    mark[510:512] = bytes(2)
    return bytes(mark)


def _head(source: Source, reading: Reading) -> bytes:
    """The first MiB of the image; zeros where it is not in use."""
    head = bytearray(min(HEAD, source.size))
    for piece in source.pieces:
        if piece.start < HEAD:
            head[piece.start : piece.end] = reading.bytes_of(piece)
    return bytes(head)


def _write_body(work: _Work, card: OpenCard, reading: Reading, body: list[Piece]) -> None:
    with work.meter.task(WRITE, sum(piece.size for piece in body)) as task:
        for piece, data, error in card.writes(body, reading.fill):
            if error is not None:
                work.meter.retries += 1
                again.write(work.meter, card, piece, bytes(data), again.TRIES - 1)
            work.written += piece.size
            task.advance(piece.size)
        card.flush()


def _read_body(work: _Work, card: OpenCard, reading: Reading, body: list[Piece]) -> None:
    """Read back what was written, and mend what is bad.

    Once something was mended all of it is read again, and must be right: on a card that wraps round, what is
    mended in one place is spoilt in another.
    """
    mended = _read_through(work, card, reading, body, again.mend)
    if mended:
        work.read_back = 0
        _read_through(work, card, reading, body, again.read)


Remedy = Callable[[Meter, OpenCard, Piece, bytes], BadCard | None]


def _read_through(
    work: _Work, card: OpenCard, reading: Reading, pieces: Sequence[Piece], remedy: Remedy
) -> int:
    """Read pieces from the card; what is wrong is left to ``remedy``. Gives how many were.

    Raises BadCard for the first that no remedy helped.
    """
    wrong = 0
    with work.meter.task(READ_BACK, sum(piece.size for piece in pieces)) as task:
        for piece, data, error in card.reads(pieces):
            if error is not None or not work.job.contents.has(data, piece.digest):
                wrong += 1
                bad = remedy(work.meter, card, piece, reading.bytes_of(piece))
                if bad is not None:
                    raise bad
            work.read_back += piece.size
            task.advance(piece.size)
    return wrong


def _check_mark(work: _Work, card: OpenCard, whole: Piece, mark: bytes) -> None:
    """A card of less capacity than it says may have put something of the body where the head belongs."""
    bad = again.fault(card, whole, mark) and again.read(work.meter, card, whole, mark)
    if isinstance(bad, Unreadable):  # writing it once more changes nothing, and tells a card that is gone
        bad = again.mend(work.meter, card, whole, mark)
        if bad is not None:
            raise bad
    if bad is not None:
        raise BadCard(
            f"{card.node} holds at byte {bad.offset} what was written elsewhere: a fake?",
            bad.hint,
            bad.offset,
        )


def _write_head(work: _Work, card: OpenCard, head: bytes) -> None:
    """Make the card bootable: the last thing done to it, and of that the block with the partition table."""
    for start, end in ((_TABLE, len(head)), (0, min(_TABLE, len(head)))):
        if start < end:
            _write_surely(work, card, Piece(start, end), head[start:end])


def _write_surely(work: _Work, card: OpenCard, piece: Piece, content: bytes) -> None:
    again.write(work.meter, card, piece, content)
    card.flush()
    work.written += piece.size
    if work.job.verify:
        bad = again.fault(card, piece, content) and again.mend(work.meter, card, piece, content)
        if bad is not None:
            raise bad
        work.read_back += piece.size


def _verify(work: _Work) -> None:
    job = work.job
    with opened(job.disk, write=False, patience=job.patience) as card, job.source.opened() as reading:
        _check_fits(card, job.source)
        _read_through(work, card, reading, job.source.pieces, again.read)
        card.check_same()


def _check_fits(card: OpenCard, source: Source) -> None:
    if card.size < card.padded(source.size):
        raise PiimgError(
            f"{card.node} is too small: {card.size} bytes, and {source.path.name} has {source.size}",
            "take a larger card",
        )
    if any(piece.start % card.sector for piece in source.pieces):
        raise PiimgError(
            f"{card.node} has sectors of {card.sector} bytes, and the block map has smaller blocks",
            "use a card or reader with sectors of 512 bytes",
        )


def _judged(
    name: str,
    action: Callable[[_Work], None],
    job: FlashJob,
    reporter: Reporter,
    stop: threading.Event,
    good: Verdict,
) -> CardReport:
    work = _Work(job, Meter(str(job.disk.node), reporter, stop))
    error: PiimgError | None = None
    reporter.emit(Started(name, str(job.disk.node)))
    try:
        action(work)
        verdict = good if work.written else Verdict.GOOD  # with nothing written, all was read
    except Exception as failed:
        verdict, error = verdict_of(failed, str(job.disk.node))
    report = _report(work, verdict, error)
    reporter.emit(Finished(name, report.device, report.done))
    return report


def _report(work: _Work, verdict: Verdict, error: PiimgError | None) -> CardReport:
    job, disk, meter = work.job, work.job.disk, work.meter
    offset = error.offset if isinstance(error, CardError) else None
    where = None if offset is None else job.source.slice_at(offset)
    return CardReport(
        device=str(disk.node),
        slot=disk.slot,
        model=disk.model,
        serial=disk.serial,
        size=disk.size,
        node=job.node,
        image=str(job.source.path),
        verdict=verdict,
        way=work.way,
        written=work.written,
        skipped=work.skipped,
        read_back=work.read_back,
        seconds=round(meter.elapsed, 3),
        write_rate=round(meter.mean(WRITE) or 0),
        read_rate=round(meter.mean(COMPARE, READ_BACK) or 0),
        rates=tuple(meter.rates),
        retries=meter.retries,
        error=error.message if error else "",
        hint=error.hint if error else "",
        offset=offset,
        partition=where.number if where else None,
        file=file_at(job.source.path, where, offset) if where and offset is not None else "",
    )
