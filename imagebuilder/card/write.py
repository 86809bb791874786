"""Write one node image to one card: compare, write, flush, read back, report a verdict.

The order ensures that a card which is not good does not boot:

1. Find the differences, by reading only.
2. Overwrite the first MiB, and so the partition table, and probe the capacity of the card.
3. Write and flush all differences, except the 4 KiB block with the partition table.
4. Read every byte in use past the page cache, whether this run wrote it or not: a write may damage bytes that
   were right before.
5. Write the block with the partition table, and read the erase block around it again.

A failure in between leaves a card without a partition table. An interrupted run needs no record of its
progress: the next run compares the card.
"""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder import progress
from imagebuilder.card import retry
from imagebuilder.card.capacity import mark_and_probe
from imagebuilder.card.compare import Differences, find_differences, time_reading
from imagebuilder.card.contents import Contents
from imagebuilder.card.io import BadCard, CardError, OpenCard, UnreadableCard, opened
from imagebuilder.card.progress import COMPARE, FLASH, READ_BACK, VERIFY, WRITE, Meter
from imagebuilder.card.report import CardReport, Verdict, WriteMode, problem_of, verdict_of
from imagebuilder.card.shared import SharedPieces
from imagebuilder.card.source import HEAD, ImageSource, Piece, Reading
from imagebuilder.card.target import CardContent
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import unfinished_line
from imagebuilder.device.reference import reference
from imagebuilder.errors import DeviceError, PiimgError
from imagebuilder.events import Message, Reporter

_log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds; the kernel gives a USB reader up after 30
_ERASE = 4 << 20  # bytes; erase blocks of cards are no larger (the SD specification's largest AU for 32 GB)


@dataclass(frozen=True)
class Target:
    """The node to write to a card, and its cluster, if known."""

    node: str
    cluster: str


NO_NODE = Target("", "")
"""The target for an image that belongs to no node."""


@dataclass(frozen=True, kw_only=True)
class FlashJob:
    """One card and the image to write to it.

    ``verify`` reads back. ``full`` writes everything without comparing first. ``paranoid`` reads everything
    once more after the last write, from the device opened a second time. ``patience`` is the time limit of
    one read or write in seconds. ``contents`` and ``shared`` are shared by the cards of a run. ``earlier``
    has the pieces of each image that an earlier run wrote; the card may contain one of them.
    """

    disk: Disk
    source: ImageSource
    target: Target
    verify: bool = True
    full: bool = False
    patience: float = PATIENCE
    contents: Contents = field(default_factory=Contents, compare=False)
    shared: SharedPieces = field(default_factory=lambda: SharedPieces(0), compare=False)
    paranoid: bool = False
    earlier: Sequence[Sequence[Piece]] = field(default=(), compare=False, repr=False)


@dataclass
class _CardRun:
    """The progress of a job on one card; the report is made from it."""

    job: FlashJob
    meter: Meter
    mode: WriteMode | None = None
    written: int = 0
    skipped: int = 0
    read_back: int = 0

    def is_right(self, piece: Piece, data: memoryview) -> bool:
        """Whether a card that returned ``data`` has ``piece``."""
        return self.job.contents.has(data, piece.digest)


def flash(job: FlashJob, reporter: Reporter, stop: threading.Event) -> CardReport:
    """Write a node image to a card and read it back. The report contains the result and any error."""
    return _run_job(FLASH, _flash, job, reporter, stop, Verdict.GOOD if job.verify else Verdict.UNVERIFIED)


def verify(job: FlashJob, reporter: Reporter, stop: threading.Event) -> CardReport:
    """Compare every byte in use of an image with a card. Nothing is written."""
    return _run_job(VERIFY, _verify, job, reporter, stop, Verdict.GOOD)


def _flash(run: _CardRun) -> None:
    job = run.job
    with opened(job.disk, write=True, patience=job.patience) as card, job.source.opened() as reading:
        _check_fits(card, job.source)
        run.meter.heed_stop()
        differences = _find_differences(run, card, reading)
        if differences.pieces:
            _write(run, card, CardContent(job.source, reading), differences)
        else:
            _check_untouched(run, card, reading)
        card.check_same()
        note = card.hand_over() if differences.pieces else ""
        if note:
            run.meter.reporter.emit(Message("warning", note, str(card.node)))


def _check_untouched(run: _CardRun, card: OpenCard, reading: Reading) -> None:
    """Finish a job that wrote nothing: the comparison has already read every byte in use."""
    if run.job.paranoid:
        with card.reopened() as reopened_card:
            _read_through(run, reopened_card, reading.bytes_of, run.job.source.pieces, retry.read)
    card.check_alone()


def _find_differences(run: _CardRun, card: OpenCard, reading: Reading) -> Differences:
    """The pieces to write: everything in use, or what differs."""
    job, source = run.job, run.job.source
    if job.full:
        differences = Differences(source.pieces)
    else:
        # Earlier images are used only with read-back, which checks the parts that are not compared.
        earlier = job.earlier if job.verify else ()
        differences = find_differences(run.meter, card, source, reading, job.contents, earlier)
    body = sum(piece.size for piece in differences.pieces if piece.start >= HEAD)
    run.skipped = source.body - body if differences.pieces else source.used
    run.mode = (
        WriteMode.NOTHING
        if not differences.pieces
        else WriteMode.DIFFERENCES
        if run.skipped
        else WriteMode.ALL
    )
    if run.mode is WriteMode.ALL and job.verify:
        time_reading(run.meter, card, source.pieces)
    return differences


def _write(run: _CardRun, card: OpenCard, wanted: CardContent, differences: Differences) -> None:
    """Write the differences, read everything in use, then write the partition table.

    After a failure the first MiB has no partition table.
    """
    job, meter = run.job, run.meter
    head = card.padded(wanted.head_size)
    meter.touched = True
    meter.ahead[READ_BACK] = _size(wanted.pieces) if job.verify else 0
    body = [piece for piece in differences.pieces if piece.start >= HEAD]
    try:
        # When little is written, read-back finds an echo nearly as soon.
        end = 0 if job.verify and 4 * _size(body) <= job.source.body else job.source.size
        mark = mark_and_probe(meter, card, head, unfinished_line(job.target.node, job.target.cluster), end)
        _write_pieces(run, card, wanted, [*body, *wanted.rest])
        if job.verify:
            _read_all(run, card, wanted, mark, differences.expected)
        else:
            _check_mark(run, card, mark)
        card.check_alone()
        _write_table(run, card, wanted)
        if job.paranoid:
            with card.reopened() as reopened_card:
                _read_strictly(run, reopened_card, wanted)
        card.check_alone()
    except BaseException:
        retries = meter.retries  # of the job itself; wiping the head is not counted
        with contextlib.suppress(PiimgError, OSError):  # often the card was removed; keep the first error
            retry.wipe(meter, card, head)
        meter.retries = retries
        raise


def _size(pieces: Sequence[Piece]) -> int:
    return sum(piece.size for piece in pieces)


def _write_pieces(run: _CardRun, card: OpenCard, wanted: CardContent, pieces: Sequence[Piece]) -> None:
    """Write pieces and flush them. Raises CardError."""
    with (
        run.meter.task(WRITE, _size(pieces)) as task,
        contextlib.closing(card.writes(pieces, wanted.fill, run.job.shared)) as steps,
    ):
        for piece, _, error in steps:
            if error is not None:
                run.meter.retries += 1
                retry.write(run.meter, card, piece, wanted.bytes_of(piece), retry.TRIES - 1)
            run.written += piece.size
            task.advance(piece.size)
        card.flush()


def _read_all(run: _CardRun, card: OpenCard, wanted: CardContent, mark: bytes, expected: bool) -> None:
    """Read everything in use, and fix what is wrong; ``mark`` is in the place of the partition table.

    After any fix everything is read again, and must be right: on a card that stores two addresses in one
    place, or damages what is next to a write, a fix in one place is damage in another. Data that was only
    ``expected`` to be right, because an earlier run wrote it, may be wrong in many places: all of these are
    written together. Raises BadCard.
    """
    if expected:
        missed: list[Piece] = []

        def collect(meter: Meter, card: OpenCard, piece: Piece, content: bytes) -> None:
            missed.append(piece)

        _read_through(run, card, wanted.bytes_of, wanted.pieces, collect)
        if not missed and not _check_mark(run, card, mark):
            return
        run.skipped -= _size([piece for piece in missed if piece.start >= HEAD])
        _write_pieces(run, card, wanted, missed)
    fixes = _read_through(run, card, wanted.bytes_of, wanted.pieces, retry.fix)
    if _check_mark(run, card, mark) or fixes:
        _read_through(run, card, wanted.bytes_of, wanted.pieces, retry.read)
        bad = retry.fault(card, Piece(0, len(mark)), mark)
        if bad is not None:
            raise bad


def _read_strictly(run: _CardRun, card: OpenCard, wanted: CardContent) -> None:
    """Read everything in use, including the partition table, and fix nothing. Raises BadCard."""
    table = Piece(0, len(wanted.table), hashlib.sha256(wanted.table).digest())
    _read_through(run, card, wanted.bytes_of, (table, *wanted.pieces), retry.read)


Remedy = Callable[[Meter, OpenCard, Piece, bytes], BadCard | None]


def _read_through(
    run: _CardRun,
    card: OpenCard,
    bytes_of: Callable[[Piece], bytes],
    pieces: Sequence[Piece],
    remedy: Remedy,
) -> int:
    """Read pieces from the card and pass each wrong piece to ``remedy``; return the number of wrong pieces.

    ``read_back`` counts the bytes of the last call. Raises BadCard for the first piece that stays wrong.
    """
    wrong = run.read_back = 0
    with (
        run.meter.task(READ_BACK, _size(pieces)) as task,
        contextlib.closing(card.checks(pieces, run.is_right)) as steps,
    ):
        for piece, is_right, _ in steps:
            if not is_right:
                wrong += 1
                bad = remedy(run.meter, card, piece, bytes_of(piece))
                if bad is not None:
                    raise bad
            run.read_back += piece.size
            task.advance(piece.size)
    return wrong


def _check_mark(run: _CardRun, card: OpenCard, mark: bytes) -> bool:
    """Check that ``mark`` is still at the start of the card; True when it had to be written again.

    Raises BadCard when other data is there: a card with less capacity than it claims may have stored a part
    of the body in the place of the head.
    """
    head = Piece(0, len(mark))
    bad = retry.fault(card, head, mark) and retry.read(run.meter, card, head, mark)
    if bad is None:
        return False
    if not isinstance(bad, UnreadableCard):
        raise BadCard(
            card.node,
            f"has data at byte {bad.offset} that was written elsewhere: is it a fake?",
            bad.hint,
            bad.offset,
        )
    bad = retry.fix(run.meter, card, head, mark)  # raises CardError when the card was removed
    if bad is not None:
        raise bad
    return True


def _write_table(run: _CardRun, card: OpenCard, wanted: CardContent) -> None:
    """Make the card bootable: write the block with the partition table, which is the last write.

    The rest of the same erase block is read again, because the write may have damaged it. If the write had to
    be repeated, the first one may have gone anywhere, so everything is read again. Raises BadCard, CardError.
    """
    meter, before = run.meter, run.meter.retries
    piece = Piece(0, len(wanted.table))
    retry.write(meter, card, piece, wanted.table)
    card.flush()
    run.written += piece.size
    if not run.job.verify:
        return
    bad = retry.fault(card, piece, wanted.table) and retry.fix(meter, card, piece, wanted.table)
    if bad is not None:
        raise bad
    if meter.retries != before:
        _read_strictly(run, card, wanted)
        return
    run.read_back += piece.size
    near = [piece for piece in wanted.pieces if piece.start < _ERASE]
    with contextlib.closing(card.checks(near, run.is_right)) as steps:
        for piece, is_right, _ in steps:
            bad = None if is_right else retry.read(meter, card, piece, wanted.bytes_of(piece))
            if bad is not None:
                raise bad


def _verify(run: _CardRun) -> None:
    job = run.job
    with opened(job.disk, write=False, patience=job.patience) as card, job.source.opened() as reading:
        _check_fits(card, job.source)
        _read_through(run, card, reading.bytes_of, job.source.pieces, retry.read)
        card.check_same()


def _check_fits(card: OpenCard, source: ImageSource) -> None:
    if card.size < card.padded(source.size):
        raise DeviceError(
            card.node,
            f"is too small: {card.size} bytes, and {Path(source.label).name} has {source.size}",
            "use a larger card",
        )
    if any(piece.start % card.sector for piece in source.pieces):
        raise DeviceError(
            card.node,
            f"has sectors of {card.sector} bytes, and the block map has smaller blocks",
            "use a card or reader with sectors of 512 bytes",
        )


def _run_job(
    name: str,
    action: Callable[[_CardRun], None],
    job: FlashJob,
    reporter: Reporter,
    stop: threading.Event,
    good: Verdict,
) -> CardReport:
    run = _CardRun(job, Meter(str(job.disk.node), reporter, stop))
    error: PiimgError | None = None
    disk, image = job.disk, job.target.node or job.source.label
    _log.info(
        "%s: %s %s (%s, %d bytes, serial %s)", disk.node, name, image, disk.slot, disk.size, disk.serial
    )
    with progress.task(reporter, name, str(job.disk.node)) as card_task:
        try:
            action(run)
            verdict = good if run.written else Verdict.GOOD  # when nothing was written, everything was read
        except Exception as failure:
            verdict, error = verdict_of(failure, str(job.disk.node))
        report = _report(run, verdict, error)
        _log.info(
            "%s: %s: %s, %d bytes written, %d kept, %d read back, %d retries%s",
            *(report.device, name, verdict, run.written, run.skipped, run.read_back, report.retries),
            f": {error.whole}" if error else "",
        )
        card_task.ok = report.done
        return report


def _report(run: _CardRun, verdict: Verdict, error: PiimgError | None) -> CardReport:
    job, meter = run.job, run.meter
    offset = error.offset if isinstance(error, CardError) else None
    partition = None if offset is None else job.source.slice_at(offset)
    return CardReport(
        **vars(reference(job.disk)),
        node=job.target.node,
        image=job.source.label,
        verdict=verdict,
        mode=run.mode,
        written=run.written,
        skipped=run.skipped,
        read_back=run.read_back,
        seconds=round(meter.elapsed, 3),
        write_rate=round(meter.mean(WRITE) or 0),
        read_rate=round(meter.mean(COMPARE, READ_BACK) or 0),
        rates=tuple(meter.rates),
        retries=meter.retries,
        error=error.message if error else "",
        problem=problem_of(error) if error else "",
        hint=error.hint if error else "",
        offset=offset,
        partition=partition.number if partition else None,
        file="" if offset is None else job.source.owner_of(offset),
    )
