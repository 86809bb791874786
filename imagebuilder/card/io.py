"""One card, opened exclusively: written and read past the page cache, in whole sectors."""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagebuilder.card.shared import SharedPieces
from imagebuilder.card.source import Piece
from imagebuilder.card.streams import Fill, Step, ahead, flow
from imagebuilder.card.workers import IN_FLIGHT, CardWorkers, with_descriptor
from imagebuilder.device.discovery import Disk, changed
from imagebuilder.device.holders import OPEN_FOR_WRITING, holdings_of, read_host
from imagebuilder.device.policy import DiskRefused, Reason, Refusal
from imagebuilder.errors import DeviceError
from imagebuilder.image.bmap import PIECE
from imagebuilder.system import blockdev
from imagebuilder.system.openers import OpenerWatch

_GRAIN = 4096  # bytes; the precision of the offset reported for a read or write error
_AT_ONCE = 16  # places that ``glances`` reads in one operation
_REMOVED = "was the card removed? Insert it again, or try another card or reader"


class CardError(DeviceError):
    """A card could not be written to, or could not be flushed. ``offset`` is the first byte it failed at."""

    def __init__(
        self, device: Path, problem: str, hint: str = _REMOVED, offset: int | None = None, joint: str = " "
    ) -> None:
        super().__init__(device, problem, hint, joint)
        self.offset = offset


class BadCard(CardError):
    """A card returns other data than was written to it, from byte ``offset`` on."""


class UnreadableCard(BadCard):
    """A card cannot be read at byte ``offset``; ``reason`` is that of the system."""

    def __init__(self, device: Path, offset: int, reason: str) -> None:
        super().__init__(device, f"reading back failed at byte {offset}: {reason}", offset=offset, joint=": ")
        self.reason = reason


class Gone(CardError):
    """A card exceeded the time limit, or was replaced by another. It gets no more reads or writes."""


class _Swapped(OSError):
    """The medium is no longer the one that was opened."""


Read = tuple[Piece, memoryview, OSError | None]  # the bytes that were read, and the error, if any
Done = tuple[Piece, bool, OSError | None]  # whether the finished piece is right, and the error, if any


@dataclass(frozen=True)
class OpenCard:
    """An open card. ``sector`` is its logical sector in bytes; ``diskseq`` changes with its medium."""

    node: Path
    handle: int
    sector: int
    size: int
    diskseq: int | None
    workers: CardWorkers
    others: OpenerWatch | None = None
    afterwards: contextlib.ExitStack = field(repr=False, default_factory=contextlib.ExitStack)
    buffers: Sequence[memoryview] = field(
        repr=False, default_factory=lambda: blockdev.buffers(IN_FLIGHT, PIECE)
    )

    def padded(self, length: int) -> int:
        """``length`` rounded up to whole sectors, which direct I/O requires."""
        return -(-length // self.sector) * self.sector

    def reads(self, pieces: Iterable[Piece]) -> Generator[Read]:
        """Read ``pieces`` in order, some ahead. The bytes of each are valid until the next one."""

        def read(piece: Piece, data: memoryview) -> None:
            self.check_medium()
            blockdev.read_at(self.handle, data[: self.padded(piece.size)], piece.start)

        with contextlib.closing(ahead(self.workers, self.buffers, pieces, read)) as steps:
            for piece, data, error in steps:
                yield piece, data[: piece.size], self.checked_outcome(error, piece)

    def glances(self, places: Sequence[int], length: int) -> Generator[tuple[int, memoryview]]:
        """Read ``length`` bytes (whole sectors) at each of many ``places``, some of them in one operation.

        A place that cannot be read yields stale bytes: do not base a verdict on them.
        """

        def read(batch: Sequence[int], data: memoryview) -> None:
            self.check_medium()
            for number, place in enumerate(batch):
                with contextlib.suppress(OSError):
                    blockdev.read_at(self.handle, data[number * length :][:length], place)

        batches = (places[at : at + _AT_ONCE] for at in range(0, len(places), _AT_ONCE))
        with contextlib.closing(ahead(self.workers, self.buffers, batches, read)) as steps:
            for batch, data, error in steps:
                self.checked_outcome(error, Piece(batch[0], batch[0]))
                for number, place in enumerate(batch):
                    yield place, data[number * length :][:length]

    def checks(self, pieces: Iterable[Piece], right: Callable[[Piece, memoryview], bool]) -> Generator[Done]:
        """Read ``pieces`` in order; ``right`` tells on a worker thread whether the bytes of each are right.

        While a piece is yielded that is not right, no operation is in flight.
        """

        def check(piece: Piece, data: memoryview) -> bool:
            blockdev.read_at(self.handle, data[: self.padded(piece.size)], piece.start)
            return right(piece, data[: piece.size])

        return self._stream(pieces, check)

    def writes(self, pieces: Iterable[Piece], fill: Fill, shared: SharedPieces) -> Generator[Done]:
        """Write ``pieces`` in order; ``fill`` puts the bytes of each into a buffer, on a worker thread.

        While a piece is yielded that could not be written, no operation is in flight.
        """

        def write(piece: Piece, data: memoryview) -> bool:
            with shared.filled(piece, fill, data) as content:
                blockdev.write_at(self.handle, self._padded_with_zeros(piece, content), piece.start)
            return True

        return self._stream(pieces, write)

    def _buffer(self, piece: Piece) -> memoryview:
        """A buffer for ``piece`` that no operation uses: the job performs these one at a time."""
        return self.buffers[0][: self.padded(piece.size)]

    def _padded_with_zeros(self, piece: Piece, data: memoryview) -> memoryview:
        length = self.padded(piece.size)
        data[piece.size : length] = bytes(length - piece.size)
        return data[:length]

    def _stream(self, pieces: Iterable[Piece], step: Step) -> Generator[Done]:
        def on_same_medium(piece: Piece, data: memoryview) -> bool:
            self.check_medium()
            return step(piece, data)

        with contextlib.closing(flow(self.workers, self.buffers, pieces, on_same_medium)) as finished:
            for taken in finished:
                error = taken.error if isinstance(taken.error, OSError) else None  # ``flow`` raises others
                yield taken.piece, bool(taken.right), self.checked_outcome(error, taken.piece)

    def read(self, piece: Piece) -> memoryview:
        """Read ``piece`` from the card itself; the bytes are valid until the next operation on the card.

        Raises BadCard with the first offset that fails.
        """
        data = self._buffer(piece)
        error = self._perform(lambda: blockdev.read_at(self.handle, data, piece.start), piece)
        if error is not None:
            raise self.unreadable(piece, error)
        return data[: piece.size]

    def write(self, piece: Piece, content: bytes | memoryview) -> None:
        """Write ``content`` to ``piece``. Raises CardError with the first offset that cannot be written."""
        data = self._buffer(piece)
        data[: piece.size] = content
        data[piece.size :] = bytes(len(data) - piece.size)
        error = self._perform(lambda: blockdev.write_at(self.handle, data, piece.start), piece)
        if error is not None:
            offset = self._first_failing(blockdev.write_at, data, piece)
            problem = f"writing failed at byte {offset}: {error.strerror}"
            raise CardError(self.node, problem, offset=offset, joint=": ") from error

    def unreadable(self, piece: Piece, error: OSError) -> UnreadableCard:
        """The error for a piece that cannot be read back, with the first offset that fails."""
        offset = self._first_failing(blockdev.read_at, self._buffer(piece), piece)
        return UnreadableCard(self.node, offset, error.strerror or str(error))

    def flush(self) -> None:
        """Flush the card, with no time limit. Raises CardError."""
        done = self._begin(lambda: blockdev.flush(self.handle))
        error = self.checked_outcome(self.workers.outcome(done, patient=True), Piece(0, 0))
        if error is not None:
            problem = f"flushing what was written failed: {error.strerror}"
            raise CardError(self.node, problem, joint=": ") from error

    @contextlib.contextmanager
    def reopened(self) -> Iterator["OpenCard"]:
        """Open the card a second time, for reading only, with nothing of it in the page cache.

        The first descriptor stays open, so that no other program can use the card meanwhile.
        Raises PiimgError.
        """
        self.flush()
        try:
            fresh = self._opened_again(write=False)
        except OSError as error:
            raise DeviceError(
                self.node, f"cannot be opened again: {error.strerror}", "run piimg with sudo"
            ) from error
        try:
            with with_descriptor(self.node.name, fresh, self.workers.patience) as (workers, own):
                yield replace(self, handle=own, workers=workers)
        finally:
            os.close(fresh)

    def _opened_again(self, *, write: bool) -> int:
        """Open this same device once more, within the time limit. Raises OSError or Gone."""
        handles: list[int] = []
        given_up = threading.Event()

        def open_again() -> None:
            handles.append(blockdev.opened_again(self.handle, write=write))
            if given_up.is_set():
                _close_all(handles)

        try:
            error = self._perform(open_again, Piece(0, 0))
        except BaseException:
            given_up.set()  # a card that answers late must not leave a descriptor open
            _close_all(handles)
            raise
        if error is not None:
            raise error
        return handles[0]

    def check_alone(self) -> None:
        """Raise CardError when another program can write to the card, or could since it was opened."""
        program = self.others.since() if self.others else ""
        uses = [f"was opened for writing by {program}"] if program else []
        uses += [f"is {use.by}" for use in holdings_of(self.node.name, read_host()) if use.on_top]
        if uses:
            raise CardError(
                self.node,
                f"{uses[0]} meanwhile, so its content is not known",
                "end that program, then flash the card again: data that is already right is kept",
            )

    def hand_over(self) -> str:
        """Make the kernel and udev read the new partitions: the last operation on the card.

        Returns a warning when that failed, else an empty text. The verdict does not depend on it.
        """
        try:
            error = self._perform(lambda: blockdev.hand_over(self.handle), Piece(0, 0))
        except Gone as gone:
            return f"the partitions of {self.node} may not be known to the system: {gone.message}"
        if isinstance(error, PermissionError):
            return self._wake_udev()
        if (
            error is not None and error.errno != errno.EINVAL
        ):  # the disk supports no partitions, as some loop devices
            return (
                f"the system does not know the new partitions of {self.node}: {error.strerror}."
                " To use the card here, take it out and put it in again"
            )
        return ""

    def _wake_udev(self) -> str:
        """Make udev read the new partitions once the card is closed; returns a warning when that failed.

        udev reads a disk when a descriptor that was open for writing is closed and the disk is not locked.
        The descriptor is of this same device, because its name may by then belong to another disk.
        """
        try:
            self.afterwards.callback(os.close, self._opened_again(write=True))
        except Gone as gone:
            return f"the partitions of {self.node} may not be known to the system: {gone.message}"
        except OSError:  # udisks2 opened the card; this user may not open it
            self.afterwards.callback(_rescan, self.node, os.fstat(self.handle).st_rdev)
        return ""

    def check_same(self) -> None:
        """Raise Gone when the slot contains another medium than was opened."""
        self._perform(lambda: None, Piece(0, 0))

    def _begin(self, operation: Callable[[], None]) -> "Future[None]":
        """Begin an operation on this medium. A reader remains the same device when its card is changed."""

        def on_same_medium() -> None:
            self.check_medium()
            operation()

        return self.workers.begin(on_same_medium)

    def check_medium(self) -> None:
        """Raise an OSError, which ``checked_outcome`` knows, when the reader contains another medium."""
        if (blockdev.diskseq(self.handle) or self.diskseq) != self.diskseq:
            raise _Swapped

    def _perform(self, operation: Callable[[], None], piece: Piece) -> OSError | None:
        return self.checked_outcome(self.workers.outcome(self._begin(operation)), piece)

    def checked_outcome(self, error: OSError | None, piece: Piece) -> OSError | None:
        """The outcome of an operation, unless the card is lost: then raises Gone."""
        if self.workers.stalled:
            raise Gone(
                self.node,
                f"does not answer: no response for {self.workers.patience:.0f} s at byte {piece.start}",
                "remove the card or its reader, so that the system gives it up; then try another",
                piece.start,
            ) from error
        if isinstance(error, _Swapped):
            raise Gone(
                self.node, "now contains another card", "insert the intended card, then start again"
            ) from error
        return error

    def _first_failing(
        self, operation: Callable[[int, memoryview, int], None], data: memoryview, piece: Piece
    ) -> int:
        """Repeat in small steps and return the first offset that fails; the start when none fails now."""
        for position in range(0, len(data), _GRAIN):
            part, at = data[position : position + _GRAIN], piece.start + position
            if self._perform(lambda part=part, at=at: operation(self.handle, part, at), Piece(at, at)):  # type: ignore[misc]
                return at
        return piece.start


@contextlib.contextmanager
def opened(disk: Disk, *, write: bool, patience: float) -> Iterator[OpenCard]:
    """Open the card that the user was shown, and check that it still is that card.

    ``patience`` is the time limit of one read or write in seconds. Raises PiimgError when it is another card,
    is in use, or may not be opened.
    """
    if not disk.direct:
        raise DiskRefused(disk, [Refusal(Reason.CACHED)], (), write=write)
    with (
        contextlib.ExitStack() as afterwards,
        blockdev.opened(disk.node, write=write) as handle,
        _kept_from_others(disk, handle, write) as others,
        with_descriptor(disk.name, handle, patience) as (workers, own),
    ):
        seen = (blockdev.number(handle), blockdev.size(handle), blockdev.diskseq(handle) or disk.diskseq)
        sector = blockdev.sector_size(handle)
        card = OpenCard(disk.node, own, sector, seen[1], seen[2], workers, others, afterwards)
        differs = list(changed(disk))
        if seen != (disk.number, disk.size, disk.diskseq or seen[2]) or differs:
            raise DeviceError(
                disk.node,
                "is no longer the selected card" + (f": {'; '.join(differs)}" if differs else ""),
                "check the cards with: piimg cards",
            )
        if write and blockdev.read_only(handle):
            raise DeviceError(
                disk.node, "is write-protected", "check the lock switch on the card or its adapter"
            )
        yield card


@contextlib.contextmanager
def _kept_from_others(disk: Disk, handle: int, write: bool) -> Iterator[OpenerWatch | None]:
    """Refuse a card that another program can write to, and watch for such programs until it is closed.

    A card that is only read is not checked. O_EXCL is not enough: it excludes only programs that use it too.
    """
    if not write:
        yield None
        return
    with contextlib.closing(OpenerWatch(disk.node, os.fstat(handle).st_rdev)) as watch:
        writers = ", ".join(map(str, watch.begin()))
        if writers:
            raise DeviceError(
                disk.node,
                f"is {OPEN_FOR_WRITING} {writers}",
                "end that program, then try again: its writes would damage the data on the card",
            )
        yield watch


def _rescan(node: Path, rdev: int) -> None:
    """Ask udisks2 to read the partitions of the device, if its name still means the same device."""
    from imagebuilder.system import udisks  # rarely needed, and slow to import

    with contextlib.suppress(OSError):
        if node.stat().st_rdev == rdev:
            udisks.rescan(node)


def _close_all(handles: list[int]) -> None:
    """Close each descriptor in the list once, even when two threads do this at the same time."""
    with contextlib.suppress(IndexError):
        while True:
            os.close(handles.pop())
