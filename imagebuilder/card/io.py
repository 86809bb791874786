"""One card, held open for oneself alone: written and read past the page cache, in whole sectors."""

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagebuilder.card.source import Piece
from imagebuilder.card.workers import CardWorkers, running
from imagebuilder.device.discovery import Disk, changed
from imagebuilder.device.holders import OPEN_FOR_WRITING, holdings_of, read_host
from imagebuilder.device.policy import DiskRefused, Reason, Refusal
from imagebuilder.errors import DeviceError
from imagebuilder.image.bmap import PIECE
from imagebuilder.system import blockdev
from imagebuilder.system.openers import OpenerWatch

_GRAIN = 4096  # bytes; how closely a place that cannot be read or written is told
_BUFFERS = 2  # pieces: one in flight while the other is filled or looked at; one huge page
_AT_ONCE = 16  # places that are glanced at in one operation
_PULLED = "was the card pulled out? Put it in again, or try another card or reader"


class CardError(DeviceError):
    """A card could not be written to, or could not be flushed. ``offset`` is the first byte it failed at."""

    def __init__(
        self, device: Path, problem: str, hint: str = _PULLED, offset: int | None = None, joint: str = " "
    ) -> None:
        super().__init__(device, problem, hint, joint)
        self.offset = offset


class BadCard(CardError):
    """A card does not give back what was written to it, from byte ``offset`` on."""


class UnreadableCard(BadCard):
    """A card gives back nothing at byte ``offset``."""


class Gone(CardError):
    """A card does not answer within the time limit, or is another one now. Nothing more is asked of it."""


class _Swapped(OSError):
    """The medium is not the one any more that was opened."""


def _cut(memory: memoryview) -> tuple[memoryview, ...]:
    return tuple(memory[at : at + PIECE] for at in range(0, len(memory), PIECE))


Step = tuple[Piece, memoryview, OSError | None]
"""A piece that is through, its bytes, and the error if there was one."""

Steps = Generator[Step, None, None]


@dataclass(frozen=True)
class OpenCard:
    """An open card. ``sector`` is its logical sector in bytes, ``diskseq`` tells its medium from others."""

    node: Path
    handle: int
    sector: int
    size: int
    diskseq: int | None
    workers: CardWorkers
    others: OpenerWatch | None = None
    afterwards: contextlib.ExitStack = field(repr=False, default_factory=contextlib.ExitStack)
    buffers: Sequence[memoryview] = field(
        repr=False, default_factory=lambda: _cut(blockdev.buffer(_BUFFERS * PIECE))
    )

    def padded(self, length: int) -> int:
        """``length`` rounded up to whole sectors: direct I/O knows no other."""
        return -(-length // self.sector) * self.sector

    def reads(self, pieces: Iterable[Piece]) -> Steps:
        """Read ``pieces`` in order, some ahead. Each step's bytes are there until the next is asked for."""

        def begin(piece: Piece, data: memoryview) -> "Future[None]":
            part = data[: self.padded(piece.size)]
            return self._begin(lambda: blockdev.read_at(self.handle, part, piece.start))

        return self._flow(pieces, begin)

    def glances(self, places: Sequence[int], length: int) -> Iterator[tuple[int, memoryview]]:
        """Read ``length`` bytes (whole sectors) at each of many ``places``, some of them in one go.

        A place that cannot be read gives what was read before it: who glances does not judge by that.
        """
        data = self.buffers[0]
        for start in range(0, len(places), _AT_ONCE):
            some = places[start : start + _AT_ONCE]
            slots = [data[at : at + length] for at in range(0, len(some) * length, length)]

            def look(some: Sequence[int] = some, slots: Sequence[memoryview] = slots) -> None:
                for place, slot in zip(some, slots, strict=True):
                    with contextlib.suppress(OSError):
                        blockdev.read_at(self.handle, slot, place)

            self._done(look, Piece(some[0], some[0]))
            yield from zip(some, slots, strict=True)

    def writes(self, pieces: Iterable[Piece], fill: Callable[[Piece, memoryview], None]) -> Steps:
        """Write ``pieces`` in order, some ahead; ``fill`` puts the bytes of each into a buffer."""

        def begin(piece: Piece, data: memoryview) -> "Future[None]":
            fill(piece, data)
            part = self._padded_with_zeros(piece, data)
            return self._begin(lambda: blockdev.write_at(self.handle, part, piece.start))

        return self._flow(pieces, begin)

    def _flow(self, pieces: Iterable[Piece], begin: Callable[[Piece, memoryview], "Future[None]"]) -> Steps:
        free = list(self.buffers)
        begun: deque[tuple[Piece, memoryview, Future[None]]] = deque()
        try:
            for piece in pieces:
                if not free:
                    done, data, error = self._next(begun)
                    yield done, data[: done.size], error
                    free.append(data)
                data = free.pop()
                begun.append((piece, data, begin(piece, data)))
            while begun:
                done, data, error = self._next(begun)
                yield done, data[: done.size], error
        finally:
            for _, _, pending in begun:  # nothing may be on its way into a buffer that is used again
                self.workers.outcome(pending)

    def _next(self, begun: "deque[tuple[Piece, memoryview, Future[None]]]") -> Step:
        piece, data, pending = begun[0]
        error = self._heard(self.workers.outcome(pending), piece)
        begun.popleft()
        return piece, data, error

    def read(self, piece: Piece) -> memoryview:
        """The bytes of ``piece`` from the card itself. Raises BadCard with the first place that fails."""
        data = blockdev.buffer(self.padded(piece.size))
        error = self._done(lambda: blockdev.read_at(self.handle, data, piece.start), piece)
        if error is not None:
            raise self.unreadable(piece, error)
        return data[: piece.size]

    def write(self, piece: Piece, content: bytes | memoryview) -> None:
        """Write ``content`` to ``piece``. Raises CardError with the first place that cannot be written."""
        data = blockdev.buffer(self.padded(piece.size))
        data[: piece.size] = content
        error = self._done(lambda: blockdev.write_at(self.handle, data, piece.start), piece)
        if error is not None:
            where = self._first_failing(blockdev.write_at, data, piece)
            problem = f"writing failed at byte {where}: {error.strerror}"
            raise CardError(self.node, problem, offset=where, joint=": ") from error

    def unreadable(self, piece: Piece, error: OSError) -> UnreadableCard:
        """The error for a piece that cannot be read back: it names the first place."""
        where = self._first_failing(blockdev.read_at, blockdev.buffer(self.padded(piece.size)), piece)
        problem = f"reading back failed at byte {where}: {error.strerror}"
        return UnreadableCard(self.node, problem, offset=where, joint=": ")

    def flush(self) -> None:
        """Wait until everything is on the card, however long that takes. Raises CardError."""
        done = self._begin(lambda: blockdev.flush(self.handle))
        error = self._heard(self.workers.outcome(done, patient=True), Piece(0, 0))
        if error is not None:
            problem = f"the card did not take what was written: {error.strerror}"
            raise CardError(self.node, problem, joint=": ") from error

    def _padded_with_zeros(self, piece: Piece, data: memoryview) -> memoryview:
        length = self.padded(piece.size)
        data[piece.size : length] = bytes(length - piece.size)
        return data[:length]

    @contextlib.contextmanager
    def reopened(self) -> Iterator["OpenCard"]:
        """The card by a descriptor of its own, with nothing of it cached by the kernel; only for reading.

        This one stays open, so that nobody else can use the card meanwhile. Raises PiimgError.
        """
        self.flush()
        try:
            fresh = self._opened_again(write=False)
        except OSError as error:
            raise DeviceError(
                self.node, f"cannot be opened again: {error.strerror}", "run piimg with sudo"
            ) from error
        try:
            with _workers(self.node.name, fresh, self.workers.patience) as (one, own):
                yield replace(self, handle=own, workers=one)
        finally:
            os.close(fresh)

    def _opened_again(self, *, write: bool) -> int:
        """Another descriptor of this very device, opened within the time limit. Raises OSError or Gone."""
        handles: list[int] = []
        given_up = threading.Event()

        def again() -> None:
            handles.append(blockdev.opened_again(self.handle, write=write))
            if given_up.is_set():
                _close_all(handles)

        try:
            error = self._done(again, Piece(0, 0))
        except BaseException:
            given_up.set()  # a card that answers at last must not leave a descriptor open
            _close_all(handles)
            raise
        if error is not None:
            raise error
        return handles[0]

    def check_alone(self) -> None:
        """Raise CardError when another program can write to the card, or could since it was opened."""
        who = self.others.since() if self.others else ""
        found = [f"was opened for writing by {who}"] if who else []
        found += [f"is {one.by}" for one in holdings_of(self.node.name, read_host()) if one.on_top]
        if found:
            raise CardError(
                self.node,
                f"{found[0]} meanwhile, so what is on it is not known",
                "end that program, then flash the card again: what is right on it is kept",
            )

    def hand_over(self) -> str:
        """Have the kernel and udev know the new partitions. Nothing is done to the card after that.

        Gives what is to be said when that failed. The card is as good without it.
        """
        try:
            error = self._done(lambda: blockdev.hand_over(self.handle), Piece(0, 0))
        except Gone as gone:
            return f"the partitions of {self.node} may not be known to the system: {gone.message}"
        if isinstance(error, PermissionError):
            return self._wake_udev()
        if error is not None and error.errno != errno.EINVAL:  # a disk that has no partitions, as some loop
            return (
                f"the system does not know the new partitions of {self.node}: {error.strerror}."
                " To use the card here, take it out and put it in again"
            )
        return ""

    def _wake_udev(self) -> str:
        """Have udev read the new partitions once the card is let go of; what is to be said when that failed.

        It does so when a disk is closed that was open for writing and is not locked any more. That is a
        descriptor of this very device: its name may by then be another disk's.
        """
        try:
            self.afterwards.callback(os.close, self._opened_again(write=True))
        except Gone as gone:
            return f"the partitions of {self.node} may not be known to the system: {gone.message}"
        except OSError:  # udisks2 opened the card, which this user may not
            self.afterwards.callback(_rescan, self.node, os.fstat(self.handle).st_rdev)
        return ""

    def check_same(self) -> None:
        """Raise Gone when another medium is in the slot than was opened."""
        self._done(lambda: None, Piece(0, 0))

    def _begin(self, operation: Callable[[], None]) -> "Future[None]":
        """Begin an operation on this medium: a reader stays the same device when its card is changed."""

        def on_this_one() -> None:
            if (blockdev.diskseq(self.handle) or self.diskseq) != self.diskseq:
                raise _Swapped
            operation()

        return self.workers.begin(on_this_one)

    def _done(self, operation: Callable[[], None], piece: Piece) -> OSError | None:
        return self._heard(self.workers.outcome(self._begin(operation)), piece)

    def _heard(self, error: OSError | None, piece: Piece) -> OSError | None:
        if self.workers.stalled:
            raise Gone(
                self.node,
                f"does not answer: byte {piece.start} was waited for {self.workers.patience:.0f} s",
                "pull the card or its reader out, so that the system gives it up; then try another",
                piece.start,
            ) from error
        if isinstance(error, _Swapped):
            raise Gone(
                self.node, "has another card in it now", "start again with the card that is meant"
            ) from error
        return error

    def _first_failing(
        self, operation: Callable[[int, memoryview, int], None], data: memoryview, piece: Piece
    ) -> int:
        """Try again in small steps, and say at which byte it fails; the start if it does not any more."""
        for position in range(0, len(data), _GRAIN):
            part, at = data[position : position + _GRAIN], piece.start + position
            if self._done(lambda part=part, at=at: operation(self.handle, part, at), Piece(at, at)):  # type: ignore[misc]
                return at
        return piece.start


@contextlib.contextmanager
def opened(disk: Disk, *, write: bool, patience: float) -> Iterator[OpenCard]:
    """Open the card that the user was shown, and make sure that it still is that card.

    ``patience`` is how many seconds one read or write may take. Raises PiimgError when it is another card, is
    in use, or may not be opened.
    """
    if not disk.direct:
        raise DiskRefused(disk, [Refusal(Reason.CACHED)], ())
    with (
        contextlib.ExitStack() as afterwards,
        blockdev.opened(disk.node, write=write) as handle,
        _kept_from_others(disk, handle, write) as others,
        _workers(disk.name, handle, patience) as (one, own),
    ):
        seen = (blockdev.number(handle), blockdev.size(handle), blockdev.diskseq(handle) or disk.diskseq)
        sector = blockdev.sector_size(handle)
        card = OpenCard(disk.node, own, sector, seen[1], seen[2], one, others, afterwards)
        differs = list(changed(disk))
        if seen != (disk.number, disk.size, disk.diskseq or seen[2]) or differs:
            raise DeviceError(
                disk.node,
                "is not the card any more that you were asked about"
                + (f": {'; '.join(differs)}" if differs else ""),
                "look again with: piimg cards",
            )
        if write and blockdev.read_only(handle):
            raise DeviceError(
                disk.node, "is write-protected", "look at the slider on the card or its adapter"
            )
        yield card


@contextlib.contextmanager
def _kept_from_others(disk: Disk, handle: int, write: bool) -> Iterator[OpenerWatch | None]:
    """Refuse a card that others can write to, and watch for them from then on; not where it is only read.

    O_EXCL does not keep them away: it is asked for by those alone who use it too.
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
                "end that program, then try again: what it writes would spoil the card",
            )
        yield watch


def _rescan(node: Path, rdev: int) -> None:
    """Ask udisks2 to read the partitions of the device, if its name is still that device's."""
    from imagebuilder.system import udisks  # few need it, and it takes a while to load

    with contextlib.suppress(OSError):
        if node.stat().st_rdev == rdev:
            udisks.rescan(node)


def _close_all(handles: list[int]) -> None:
    """Close what is in the list, each once, whoever else is at it."""
    with contextlib.suppress(IndexError):
        while True:
            os.close(handles.pop())


@contextlib.contextmanager
def _workers(name: str, handle: int, patience: float) -> Iterator[tuple[CardWorkers, int]]:
    """The threads of a card, and a descriptor of their own, which they close.

    A thread that a card keeps waiting goes on with that descriptor when the card answers at last: were it
    closed before, its number could by that time be another card's.
    """
    own = os.dup(handle)
    one = CardWorkers(patience, lambda: os.close(own))
    with running(one, name):
        yield one, own
