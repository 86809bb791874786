"""A stream of pieces: the worker threads of a card take one after another, and its job looks on.

Handing each piece from the job to a thread and back costs more than reading and checking it. So a thread that
has finished a piece takes the next one itself. The job looks from time to time, gets the finished pieces in
order, and watches the time limit. The first piece that fails ends the stream, so that nothing else
is in flight when the job deals with it; then the rest is a new stream.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from imagebuilder.card.source import Piece
from imagebuilder.card.workers import IN_FLIGHT, CardWorkers, within

_LOOK = 0.1  # seconds; the job looks at least that often,
_MANY = 6  # and when it could get that many pieces
_AHEAD = 10  # pieces; the threads wait when the job is that far behind

T = TypeVar("T")

Fill = Callable[[Piece, memoryview], None]
"""Puts the bytes of a piece at the start of a buffer. Raises PiimgError."""

Step = Callable[[Piece, memoryview], bool]
"""Reads or writes a piece, with a buffer of its own; False when the card has other data. Raises OSError."""


@dataclass(slots=True)
class Taken:
    """A piece that a thread has taken. ``right`` is None until it is finished."""

    piece: Piece
    right: bool | None = None
    error: BaseException | None = None


@dataclass
class Stream:
    """Pieces in work. ``taken`` has those that the job did not get yet, in order."""

    pieces: Iterator[Piece]
    step: Step
    taken: deque[Taken] = field(default_factory=deque)
    failed: bool = False
    _closing: bool = False
    _working: int = IN_FLIGHT
    _state: threading.Condition = field(default_factory=threading.Condition)

    def work(self, data: memoryview) -> None:
        """Take pieces until none is left or one failed; run by ``IN_FLIGHT`` threads, each with a buffer."""
        try:
            while (taken := self._take()) is not None:
                try:
                    right = self.step(taken.piece, data)
                except BaseException as error:
                    # Without the traceback, whose frames would keep the buffer.
                    taken.error, right = error.with_traceback(None), False
                with self._state:
                    taken.right = right
                    self.failed |= not right
                    if len(self.taken) >= _MANY:
                        self._state.notify_all()
        finally:
            with self._state:
                self._working -= 1
                self._state.notify_all()

    def _take(self) -> Taken | None:
        with self._state:
            while len(self.taken) >= _AHEAD and not (self.failed or self._closing):
                self._state.wait()
            if self.failed or self._closing:
                return None
            piece = next(self.pieces, None)
            if piece is None:
                return None
            taken = Taken(piece)
            self.taken.append(taken)
            return taken

    def ready(self, seconds: float) -> bool:
        """Wait until the first of ``taken`` is right, or all threads have ended; False after ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._state:
            while self._working:
                if self.taken and self.taken[0].right:
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._state.wait(min(left, _LOOK))
        return True

    def next(self) -> Taken | None:
        """Remove the first of ``taken``; None when there is none."""
        with self._state:
            if not self.taken:
                return None
            if len(self.taken) == _AHEAD:
                self._state.notify_all()
            return self.taken.popleft()

    def close(self) -> None:
        """Let the threads end after the pieces that they are at."""
        with self._state:
            self._closing = True
            self._state.notify_all()


def ahead(
    workers: CardWorkers,
    buffers: Sequence[memoryview],
    tasks: Iterable[T],
    operation: Callable[[T, memoryview], None],
) -> Generator[tuple[T, memoryview, OSError | None]]:
    """Do ``operation`` with each of ``tasks`` on the threads of ``workers``, some ahead; yield them in order.

    Each comes with its buffer, which has its bytes until the next one, and its error.
    """
    free = list(buffers)
    begun: deque[tuple[T, memoryview, Future[None]]] = deque()
    rest = iter(tasks)
    try:
        while True:
            for task in islice(rest, len(free)):
                data = free.pop()
                begun.append((task, data, workers.begin(partial(operation, task, data))))
            if not begun:
                return
            task, data, pending = begun[0]
            yield task, data, workers.outcome(pending)
            begun.popleft()
            free.append(data)
    finally:
        for _, _, pending in begun:  # wait: a pending operation may still use a buffer
            workers.outcome(pending)


def flow(
    workers: CardWorkers, buffers: Sequence[memoryview], pieces: Iterable[Piece], step: Step
) -> Generator[Taken]:
    """Do ``step`` with each of ``pieces`` on the threads of ``workers``, and yield them in order.

    While a piece is yielded that is not right, the threads are free. The ``error`` of a piece is an OSError:
    another exception of ``step`` is raised. A piece that exceeds the time limit has a TimeoutError, and is
    the last one; ``workers`` is stalled then.
    """
    rest = iter(pieces)
    while True:
        stream = Stream(rest, step)
        pending = [workers.begin(partial(stream.work, data)) for data in buffers]
        try:
            while not workers.stalled and within(workers.patience, stream.ready):
                if (taken := stream.next()) is None:
                    break
                if taken.error is not None and not isinstance(taken.error, OSError):
                    raise taken.error
                yield taken
            else:
                workers.stalled = True
                yield Taken(stream.taken[0].piece if stream.taken else Piece(0, 0), False, TimeoutError())
                return
        finally:
            stream.close()
            for one in pending:  # wait: a pending operation may still use a buffer
                workers.outcome(one)
        if not stream.failed:
            return
