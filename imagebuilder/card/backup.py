"""Back up a card: what is in use of it, packed, with its block map, to be written to a card again.

The card is opened for reading only, and exclusively: nothing can mount it meanwhile. The steps overlap: while
the card reads ahead, all processors pack what was read, and what was written to the file is read back and
unpacked. So a backup takes hardly longer than reading what is in use once.

    FILE           the packed image (image/packed.py); it has its name only once all of it was read back
    FILE.bmap      its block map
    FILE.sha256    its checksum, for sha256sum and for `piimg flash`
    FILE.json      whose card it is of; renamed last and removed first: if it exists, the set is complete
                   All four get their names when all of them are on the disk.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from imagebuilder.card.io import CardError, OpenCard, UnreadableCard, opened
from imagebuilder.card.retry import TRIES
from imagebuilder.card.source import Piece
from imagebuilder.card.streams import ahead
from imagebuilder.card.workers import IN_FLIGHT
from imagebuilder.card.write import PATIENCE
from imagebuilder.device.discovery import Disk
from imagebuilder.device.existing import unfinished_on
from imagebuilder.device.holders import OPEN_FOR_WRITING, holdings_of, read_host
from imagebuilder.device.identity import Carried, carried
from imagebuilder.device.reference import reference
from imagebuilder.errors import DeviceError, Interrupted, PiimgError, UsageError
from imagebuilder.events import Message, Reporter
from imagebuilder.image import bmap
from imagebuilder.image.allocation import CardUsage, card_usage, joined
from imagebuilder.image.bmap import BlockMap
from imagebuilder.image.locate import file_at
from imagebuilder.image.packed import REGION, Packed, PackedFile, Region, pack, pack_unused, regions, writing
from imagebuilder.progress import Task, task
from imagebuilder.system import blockdev, files, space
from imagebuilder.system.openers import OpenerWatch
from imagebuilder.system.scratch import unfinished_file
from imagebuilder.text import printable, size
from imagebuilder.version import __version__

_log = logging.getLogger(__name__)

BACKUP = "backup"
"""The task of a card that is backed up."""

_MODE = 0o600  # a card contains keys
_SLACK = 4096  # bytes behind a region in its buffer: the end of an image, in whole sectors
_NO_BACKUP = "no backup was made; try another reader. To save what can be read: sudo ddrescue {} FILE.img"


@dataclass(frozen=True)
class BackupFiles:
    """The files of a backup."""

    image: Path

    @property
    def block_map(self) -> Path:
        """The block map, where `piimg flash` and bmaptool look for it."""
        return self.image.with_name(f"{self.image.name}.bmap")

    @property
    def checksum(self) -> Path:
        """The checksum of the packed image, as sha256sum prints it."""
        return self.image.with_name(f"{self.image.name}.sha256")

    @property
    def json(self) -> Path:
        """What is in the backup."""
        return self.image.with_name(f"{self.image.name}.json")

    @property
    def all(self) -> tuple[Path, ...]:
        """All files."""
        return (self.json, self.checksum, self.block_map, self.image)

    def check(self, *, replace: bool) -> None:
        """Raise UsageError unless the files may be created, or, with ``replace``, replaced."""
        for path in self.all:
            try:
                files.check(path)
                there = os.path.lexists(path)
            except OSError as error:
                raise UsageError(
                    f"cannot write {path}: {error.strerror}", "name a file in a folder that you may write to"
                ) from error
            if there and not replace:
                raise UsageError(f"{path} exists", "name another file, or replace it with --force")
        if not os.access(self.image.parent, os.W_OK | os.X_OK):
            raise UsageError(f"you may not write to {self.image.parent}", "name a file in another folder")


@dataclass(frozen=True)
class Backup:
    """A backup that was made: every byte of it was read back from its disk, and is right.

    ``size`` is the size of the image, ``used`` what is in use of it, ``packed`` the size of the file, in
    bytes; ``retries`` is how often something had to be read again. ``carried`` is the node on the card.
    """

    files: BackupFiles
    disk: Disk
    carried: Carried
    usage: CardUsage
    used: int
    packed: int
    sha256: str
    retries: int
    seconds: float

    @property
    def size(self) -> int:
        """The size of the image in bytes: the least size of a card for it."""
        return self.usage.size

    def document(self) -> dict[str, object]:
        """The backup as data for JSON."""
        return {
            "format": 1,
            "tool": f"piimg {__version__}",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "node": self.carried.node,
            "cluster": self.carried.cluster,
            "manifest_digest": self.carried.manifest,
            "card": asdict(reference(self.disk)),
            "image": {
                "file": self.files.image.name,
                "size": self.size,
                "used": self.used,
                "packed": self.packed,
                "sha256": self.sha256,
            },
            "partitions": [
                {
                    "number": part.number,
                    "type": f"{part.type:02x}",
                    "start": part.start,
                    "size": part.size,
                    "whole": self.usage.whole.get(part.number),
                }
                for part in self.usage.slices
            ],
            "retries": self.retries,
            "seconds": round(self.seconds, 3),
            "read_rate": round(self.used / self.seconds) if self.seconds else 0,
        }


def back_up(
    disk: Disk,
    target: BackupFiles,
    reporter: Reporter,
    stop: threading.Event,
    *,
    begins: Callable[[int, Path], None] = lambda used, work: None,
    patience: float = PATIENCE,
) -> Backup:
    """Back up the card ``disk`` into ``target``, replacing what is there.

    ``begins`` is called with the number of bytes that will be read, and the unfinished file. ``patience`` is
    the time limit of one read in seconds. Raises PiimgError when the card cannot be read completely, or
    another program could write to it meanwhile; Interrupted when ``stop`` is set. Nothing is left then, and
    what was there before stays.
    """
    begun = time.monotonic()
    _check_complete(disk)
    found = carried(disk.node)  # before the card is locked: mtools would wait for the lock
    new = not target.image.exists()
    failed: _UnreadableByte | None = None
    try:
        with (
            opened(disk, write=False, patience=patience) as card,
            _alone(card) as check_alone,
            contextlib.ExitStack() as beside,  # left after the image has its name
        ):
            usage = card_usage(disk.node, card.size)
            used = sum(end - start for start, end in usage.spans)
            _tell(disk, usage, used, target.image.parent, reporter)
            with (
                _roomy(target.image, used),
                files.replacing(target.image, _MODE) as work,
                unfinished_file(work),
            ):
                begins(used, work)
                job = _Job(card, usage, stop)
                with task(reporter, BACKUP, str(disk.node), used) as reading, writing(work) as packed:
                    job.copy(packed, reading)
                    digest = packed.finish()
                    card.check_same()
                    check_alone()
                if new:
                    files.give_to_caller(work)
                seconds = time.monotonic() - begun
                done = Backup(target, disk, found, usage, used, packed.size, digest, job.retries, seconds)
                block_map = BlockMap(usage.size, bmap.BLOCK, "sha256", tuple(packed.ranges))
                _add_beside(beside, done, block_map, work)
                files.remove(target.json)
    except _UnreadableByte as error:
        failed = error
    if failed is not None:  # mtools and debugfs find the file, now that the card is not locked
        raise _unreadable(disk, usage, failed) from failed
    _log.info("%s: backed up to %s: %d of %d bytes", disk.node, target.image, used, usage.size)
    if job.retries:
        text = f"{job.retries} reads had to be repeated: the card or the reader is failing"
        reporter.emit(Message("warning", text, str(disk.node)))
    return done


class _UnreadableByte(CardError):
    """A card cannot be read at byte ``offset``, also not when it is tried again."""


@dataclass
class _Job:
    """The reading of a card. ``retries`` counts the repeated reads."""

    card: OpenCard
    usage: CardUsage
    stop: threading.Event
    retries: int = 0

    def copy(self, packed: PackedFile, reading: Task) -> None:
        """Write all regions to ``packed``, in order."""
        threads = os.cpu_count() or 1
        every = list(regions(self.usage.size, self.usage.spans))
        waiting: deque[Future[Packed]] = deque()
        with (
            ThreadPoolExecutor(threads, "pack") as pool,
            contextlib.closing(self._contents(region for region in every if region.pieces)) as contents,
        ):
            try:
                for region in every:
                    if self.stop.is_set():
                        raise Interrupted(
                            "interrupted: no backup was made", "the card is unchanged; run the command again"
                        )
                    if region.pieces:
                        waiting.append(pool.submit(pack, region, next(contents)))
                        reading.advance(region.used)
                    else:
                        waiting.append(pool.submit(pack_unused, region))
                    if len(waiting) > threads + IN_FLIGHT:
                        packed.add(waiting.popleft().result())
                while waiting:
                    packed.add(waiting.popleft().result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _contents(self, wanted: Iterable[Region]) -> Generator[bytes]:
        """The bytes of each region, zeros where it is not in use. Raises _UnreadableByte."""
        buffers = blockdev.buffers(IN_FLIGHT, REGION + _SLACK)
        with contextlib.closing(_gather(self.card, buffers, wanted)) as steps:
            for region, data, error in steps:
                if error is not None:
                    self._read_again(region, data)
                yield bytes(data)

    def _read_again(self, region: Region, data: memoryview) -> None:
        """Read the pieces of a region one by one, each up to ``TRIES`` times more."""
        data[:] = bytes(region.size)
        for start, end in region.pieces:
            data[start - region.start : end - region.start] = self._piece(Piece(start, end))

    def _piece(self, piece: Piece) -> memoryview:
        for attempt in range(TRIES):
            self.retries += 1
            try:
                return self.card.read(piece)
            except UnreadableCard as error:
                if attempt == TRIES - 1:
                    raise _UnreadableByte(self.card.node, error.reason, offset=error.offset) from error
        raise AssertionError(piece)


def _gather(
    card: OpenCard, buffers: Sequence[memoryview], wanted: Iterable[Region]
) -> Generator[tuple[Region, memoryview, OSError | None]]:
    """Read the pieces of each region to their places in a buffer, some ahead; the rest of it is zeros.

    The bytes of each are valid until the next one.
    """

    def read(region: Region, data: memoryview) -> None:
        card.check_medium()
        if region.used < region.size:
            data[: region.size] = bytes(region.size)
        for start, end in joined(region.pieces):
            at = start - region.start
            blockdev.read_at(card.handle, data[at : at + card.padded(end - start)], start)

    with contextlib.closing(ahead(card.workers, buffers, wanted, read)) as steps:
        for region, data, error in steps:
            left = card.checked_outcome(error, Piece(region.start, region.end))
            yield region, data[: region.size], left


def _check_complete(disk: Disk) -> None:
    """Raise PiimgError for a card whose writing was interrupted."""
    unfinished = unfinished_on(disk.node)
    if unfinished is not None:
        what = unfinished.named() or "an image"
        raise DeviceError(
            disk.node,
            f"holds nothing complete: the writing of {what} to it was interrupted",
            "write it again with: piimg flash",
        )


@contextlib.contextmanager
def _alone(card: OpenCard) -> Iterator[Callable[[], None]]:
    """Refuse a card that another program can write to, and watch for such programs during the block.

    Yields a function that raises DeviceError when there was one.
    """
    hint = "end that program, then try again: what it writes would be in the backup only in part"
    with contextlib.closing(OpenerWatch(card.node, os.fstat(card.handle).st_rdev)) as watch:
        writers = ", ".join(map(str, watch.begin()))
        if writers:
            raise DeviceError(card.node, f"is {OPEN_FOR_WRITING} {writers}", hint)

        def check() -> None:
            uses = [f"was opened for writing by {program}"] if (program := watch.since()) else []
            uses += [f"was {use.by}" for use in holdings_of(card.node.name, read_host()) if use.on_top]
            if uses:
                raise DeviceError(card.node, f"gives no backup: meanwhile it {uses[0]}", hint)

        yield check


def _tell(disk: Disk, usage: CardUsage, used: int, folder: Path, reporter: Reporter) -> None:
    """Say what is taken as a whole, what is not taken, and whether it may not fit."""
    for part in usage.slices:
        if part.number in usage.whole:
            text = f"all {size(part.size)} of partition {part.number} are taken: {usage.whole[part.number]}"
            reporter.emit(Message("warning", printable(text, None), str(disk.node)))
    if not usage.slices:
        text = f"it has no MBR with primary partitions only: all {size(usage.size)} of it are taken"
        reporter.emit(Message("warning", text, str(disk.node)))
    if disk.size > usage.size:
        text = f"{size(disk.size - usage.size)} behind the last partition are not taken"
        reporter.emit(Message("info", text, str(disk.node)))
    with contextlib.suppress(OSError):
        free = space.free_space(folder)
        if free < used:
            text = f"{size(used)} are in use, and {size(free)} are free in {folder}: packed, it may fit"
            reporter.emit(Message("warning", text, str(disk.node)))


@contextlib.contextmanager
def _roomy(image: Path, used: int) -> Iterator[None]:
    """Turn an OSError of the block, about the file that is written, into a PiimgError."""
    try:
        yield
    except OSError as error:
        if space.is_full(error):
            raise PiimgError(
                f"no room on the disk of {image.parent}: packed, {size(used)} do not fit there",
                "free some space there, or name a file in another folder",
            ) from error
        hint = "name a file in another folder"
        raise PiimgError(f"cannot write {image}: {error.strerror}", hint) from error


def _unreadable(disk: Disk, usage: CardUsage, error: _UnreadableByte) -> CardError:
    """The error for a byte that cannot be read, with the file that owns it."""
    offset = error.offset or 0
    part = next((part for part in usage.slices if part.start <= offset < part.end), None)
    owner = file_at(disk.node, part, offset) if part else ""
    place = f" (partition {part.number}{f', {owner}' if owner else ''})" if part else ""
    problem = f"byte {offset}{place} cannot be read: {error.problem}"
    return CardError(disk.node, problem, _NO_BACKUP.format(disk.node), offset, ": ")


def _add_beside(stack: contextlib.ExitStack, done: Backup, block_map: BlockMap, image: Path) -> None:
    """Write the other files for the owner of ``image``. They get their names when ``stack`` is left."""
    target = done.files
    contents = {
        target.json: (json.dumps(done.document(), indent=2) + "\n").encode(),
        target.checksum: os.fsencode(f"{done.sha256}  {target.image.name}\n"),
        target.block_map: bmap.encoded(block_map),
    }
    for path, content in contents.items():
        work = stack.enter_context(files.replacing(path, _MODE))
        stack.enter_context(unfinished_file(work))
        work.write_bytes(content)
        files.sync_file(work)
        files.hand_over(work, image)
