"""The engine: one node image onto one card, written, flushed, read back and judged.

The order keeps a card that is not good from booting. What differs on it is found first, by reading only. Then
the first MiB loses its partition table, and the card's capacity is probed. All that differs is written and
flushed, but for the 4 KiB block with the partition table. Then every byte in use is read past the page cache,
whether this run wrote it or not: what was right before the writing may have been spoiled by it. The block
with the partition table comes last, and the erase block around it is read once more. A failure in between
leaves a card without a table. A run that was cut off needs no record of how far it came: the next one looks
at the card.
"""

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imagebuilder import progress
from imagebuilder.card import retry
from imagebuilder.card.capacity import check_capacity, check_no_echo
from imagebuilder.card.compare import Differences, time_reading, what_differs
from imagebuilder.card.contents import Contents
from imagebuilder.card.io import BadCard, CardError, OpenCard, UnreadableCard, opened
from imagebuilder.card.progress import COMPARE, FLASH, PROBE, READ_BACK, VERIFY, WRITE, Meter
from imagebuilder.card.report import CardReport, Verdict, WriteMode, problem_of, verdict_of
from imagebuilder.card.source import HEAD, ImageSource, Piece, Reading
from imagebuilder.card.target import TABLE, CardContent
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import unfinished_line
from imagebuilder.device.reference import reference
from imagebuilder.errors import DeviceError, PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.image.locate import file_at

_log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds; the kernel gives a USB reader up after 30
_ERASE = 4 << 20  # bytes; erase blocks of cards are no larger (the SD specification's largest AU for 32 GB)


@dataclass(frozen=True)
class Target:
    """What a card is to become: a node, and the cluster it belongs to, where that is known."""

    node: str
    cluster: str


NO_NODE = Target("", "")
"""For an image that belongs to no node."""


@dataclass(frozen=True, kw_only=True)
class FlashJob:
    """One card and what it is to hold.

    ``verify`` reads back; ``full`` writes everything without comparing first; ``paranoid`` reads everything
    once more after the last write, from the device opened anew; ``patience`` is how many seconds one read or
    write may take. ``contents`` is shared by the cards of a run. ``earlier`` are the pieces of images that
    earlier runs wrote, one of which the card may hold.
    """

    disk: Disk
    source: ImageSource
    target: Target
    verify: bool = True
    full: bool = False
    patience: float = PATIENCE
    contents: Contents = field(default_factory=Contents, compare=False)
    paranoid: bool = False
    earlier: Sequence[Sequence[Piece]] = field(default=(), compare=False, repr=False)


@dataclass
class _Work:
    """What was done to one card so far; becomes its report."""

    job: FlashJob
    meter: Meter
    mode: WriteMode | None = None
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
        found = _find(work, card, reading)
        if found.pieces:
            _write(work, card, CardContent(job.source, reading), found)
        else:
            _check_untouched(work, card, reading)
        card.check_same()
        note = card.hand_over() if found.pieces else ""
        if note:
            work.meter.reporter.emit(Message("warning", note, str(card.node)))


def _check_untouched(work: _Work, card: OpenCard, reading: Reading) -> None:
    """Nothing was written: what the comparison read is what is there."""
    if work.job.paranoid:
        with card.reopened() as again_opened:
            _read_through(work, again_opened, reading.bytes_of, work.job.source.pieces, retry.read)
    card.check_alone()


def _find(work: _Work, card: OpenCard, reading: Reading) -> Differences:
    """What is to be written: all that is in use, or what differs."""
    job, source = work.job, work.job.source
    if job.full:
        found = Differences(source.pieces)
    else:
        # What is only expected to be right must be read afterwards.
        earlier = job.earlier if job.verify else ()
        found = what_differs(work.meter, card, source, reading, job.contents, earlier)
    body = sum(piece.size for piece in found.pieces if piece.start >= HEAD)
    work.skipped = source.body - body if found.pieces else source.used
    work.mode = (
        WriteMode.NOTHING if not found.pieces else WriteMode.DIFFERENCES if work.skipped else WriteMode.ALL
    )
    if work.mode is WriteMode.ALL and job.verify:
        time_reading(work.meter, card, source.pieces)
    return found


def _write(work: _Work, card: OpenCard, wanted: CardContent, found: Differences) -> None:
    """Write what was found to differ, read all that is in use, then write the partition table.

    A failure leaves a head without partition table.
    """
    job, meter = work.job, work.meter
    mark = _mark(card.padded(len(wanted.head)), unfinished_line(job.target.node, job.target.cluster))
    meter.touched = True
    meter.ahead[READ_BACK] = _size(wanted.pieces) if job.verify else 0
    body = [piece for piece in found.pieces if piece.start >= HEAD]
    try:
        retry.write(meter, card, Piece(0, len(mark)), mark)
        card.flush()
        with meter.task(PROBE, len(mark)):
            check_capacity(meter, card, mark)
            if (
                4 * _size(body) > job.source.body or not job.verify
            ):  # else the reading finds it nearly as soon
                check_no_echo(card, mark, job.source.size)
        _write_pieces(work, card, wanted, [*body, *wanted.rest])
        if job.verify:
            _read_all(work, card, wanted, mark[:TABLE], found.expected)
        else:
            _check_mark(work, card, mark[:TABLE])
        card.check_alone()
        _write_table(work, card, wanted)
        if job.paranoid:
            with card.reopened() as again_opened:
                _read_strictly(work, again_opened, wanted)
        card.check_alone()
    except BaseException:
        retries = meter.retries  # of what was asked for; the wiping is not counted
        with contextlib.suppress(PiimgError, OSError):  # mostly a card that is gone; the first error counts
            retry.write(meter, card, Piece(0, len(mark)), bytes(len(mark)))
            card.flush()
        meter.retries = retries
        raise


def _mark(length: int, line: bytes) -> bytes:
    """What stands in the head while the body is written: random, so that no block of an image equals it.

    ``line`` comes first and says what the card is to become, for whoever finds it after the power went. It
    has no MBR signature (bytes 510 and 511), so that the card does not boot then.
    """
    mark = bytearray(line + os.urandom(length - len(line)))
    mark[510:512] = bytes(2)
    return bytes(mark)


def _size(pieces: Sequence[Piece]) -> int:
    return sum(piece.size for piece in pieces)


def _write_pieces(work: _Work, card: OpenCard, wanted: CardContent, pieces: Sequence[Piece]) -> None:
    """Write pieces and flush them. Raises CardError."""
    with work.meter.task(WRITE, _size(pieces)) as task:
        for piece, data, error in card.writes(pieces, wanted.fill):
            if error is not None:
                work.meter.retries += 1
                retry.write(work.meter, card, piece, bytes(data), retry.TRIES - 1)
            work.written += piece.size
            task.advance(piece.size)
        card.flush()


def _read_all(work: _Work, card: OpenCard, wanted: CardContent, mark: bytes, expected: bool) -> None:
    """Read all that is in use, and fix what is wrong; ``mark`` stands where the partition table will be.

    After any fix all of it is read again, and must be right: on a card that keeps two places in one, or
    spoils what lies beside a write, a fix in one place is damage in another. What was only ``expected`` to be
    right, by what an earlier run wrote, may be wrong in many places: those are written in one go.
    Raises BadCard.
    """
    if expected:
        missed: list[Piece] = []

        def collect(meter: Meter, card: OpenCard, piece: Piece, content: bytes) -> None:
            missed.append(piece)

        _read_through(work, card, wanted.bytes_of, wanted.pieces, collect)
        if not missed and not _check_mark(work, card, mark):
            return
        work.skipped -= _size([piece for piece in missed if piece.start >= HEAD])
        _write_pieces(work, card, wanted, missed)
    fixes = _read_through(work, card, wanted.bytes_of, wanted.pieces, retry.fix)
    if _check_mark(work, card, mark) or fixes:
        _read_through(work, card, wanted.bytes_of, wanted.pieces, retry.read)
        bad = retry.fault(card, Piece(0, len(mark)), mark)
        if bad is not None:
            raise bad


def _read_strictly(work: _Work, card: OpenCard, wanted: CardContent) -> None:
    """Read all that is in use, partition table included; nothing is fixed any more. Raises BadCard."""
    table = Piece(0, len(wanted.table), hashlib.sha256(wanted.table).digest())
    _read_through(work, card, wanted.bytes_of, (table, *wanted.pieces), retry.read)


Remedy = Callable[[Meter, OpenCard, Piece, bytes], BadCard | None]


def _read_through(
    work: _Work,
    card: OpenCard,
    bytes_of: Callable[[Piece], bytes],
    pieces: Sequence[Piece],
    remedy: Remedy,
) -> int:
    """Read pieces from the card; each that is wrong is given to ``remedy``. Gives how many were.

    ``read_back`` counts the last such reading. Raises BadCard for the first that no remedy helped.
    """
    wrong = work.read_back = 0
    with work.meter.task(READ_BACK, _size(pieces)) as task:
        for piece, data, error in card.reads(pieces):
            if error is not None or not work.job.contents.has(data, piece.digest):
                wrong += 1
                bad = remedy(work.meter, card, piece, bytes_of(piece))
                if bad is not None:
                    raise bad
            work.read_back += piece.size
            task.advance(piece.size)
    return wrong


def _check_mark(work: _Work, card: OpenCard, mark: bytes) -> bool:
    """Check that ``mark`` still stands at the start of the card; True when it had to be written again.

    A card of less capacity than it says may have put something of the body where the head belongs: BadCard.
    """
    where = Piece(0, len(mark))
    bad = retry.fault(card, where, mark) and retry.read(work.meter, card, where, mark)
    if bad is None:
        return False
    if not isinstance(bad, UnreadableCard):
        raise BadCard(
            card.node,
            f"holds at byte {bad.offset} what was written elsewhere: a fake?",
            bad.hint,
            bad.offset,
        )
    bad = retry.fix(work.meter, card, where, mark)  # a card that is gone fails to be written to
    if bad is not None:
        raise bad
    return True


def _write_table(work: _Work, card: OpenCard, wanted: CardContent) -> None:
    """Make the card bootable: the block with the partition table is the last thing written to it.

    What lies in the same erase block is read again, for the write may have spoiled it. If the write had to be
    repeated, nobody knows where the first one went, and everything is read again. Raises BadCard, CardError.
    """
    meter, before = work.meter, work.meter.retries
    piece = Piece(0, len(wanted.table))
    retry.write(meter, card, piece, wanted.table)
    card.flush()
    work.written += piece.size
    if not work.job.verify:
        return
    bad = retry.fault(card, piece, wanted.table) and retry.fix(meter, card, piece, wanted.table)
    if bad is not None:
        raise bad
    if meter.retries != before:
        _read_strictly(work, card, wanted)
        return
    work.read_back += piece.size
    for near in (one for one in wanted.pieces if one.start < _ERASE):
        content = wanted.bytes_of(near)
        bad = retry.fault(card, near, content) and retry.read(meter, card, near, content)
        if bad is not None:
            raise bad


def _verify(work: _Work) -> None:
    job = work.job
    with opened(job.disk, write=False, patience=job.patience) as card, job.source.opened() as reading:
        _check_fits(card, job.source)
        _read_through(work, card, reading.bytes_of, job.source.pieces, retry.read)
        card.check_same()


def _check_fits(card: OpenCard, source: ImageSource) -> None:
    if card.size < card.padded(source.size):
        raise DeviceError(
            card.node,
            f"is too small: {card.size} bytes, and {source.path.name} has {source.size}",
            "take a larger card",
        )
    if any(piece.start % card.sector for piece in source.pieces):
        raise DeviceError(
            card.node,
            f"has sectors of {card.sector} bytes, and the block map has smaller blocks",
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
    disk, what = job.disk, job.target.node or job.source.path
    _log.info("%s: %s %s (%s, %d bytes, serial %s)", disk.node, name, what, disk.slot, disk.size, disk.serial)
    with progress.task(reporter, name, str(job.disk.node)) as whole:
        try:
            action(work)
            verdict = good if work.written else Verdict.GOOD  # with nothing written, all was read
        except Exception as failed:
            verdict, error = verdict_of(failed, str(job.disk.node))
        report = _report(work, verdict, error)
        _log.info(
            "%s: %s: %s, %d bytes written, %d kept, %d read back, %d retries%s",
            *(report.device, name, verdict, work.written, work.skipped, work.read_back, report.retries),
            f": {error.whole}" if error else "",
        )
        whole.ok = report.done
        return report


def _report(work: _Work, verdict: Verdict, error: PiimgError | None) -> CardReport:
    job, meter = work.job, work.meter
    offset = error.offset if isinstance(error, CardError) else None
    where = None if offset is None else job.source.slice_at(offset)
    return CardReport(
        **vars(reference(job.disk)),
        node=job.target.node,
        image=str(job.source.path),
        verdict=verdict,
        mode=work.mode,
        written=work.written,
        skipped=work.skipped,
        read_back=work.read_back,
        seconds=round(meter.elapsed, 3),
        write_rate=round(meter.mean(WRITE) or 0),
        read_rate=round(meter.mean(COMPARE, READ_BACK) or 0),
        rates=tuple(meter.rates),
        retries=meter.retries,
        error=error.message if error else "",
        problem=problem_of(error) if error else "",
        hint=error.hint if error else "",
        offset=offset,
        partition=where.number if where else None,
        file=file_at(job.source.path, where, offset) if where and offset is not None else "",
    )
