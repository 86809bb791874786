"""What one card is asked to do: a few operations in flight, each with a time limit.

A thread that waits for a card cannot be called back, whatever the card does. So the job of a card never waits
for it itself: threads of its own do, and the job waits for them, for as long as its patience lasts. They are
daemon threads: a card that never answers must not keep the report of the others from being printed.

Only time in which this process ran counts as waiting: it may be stopped (Ctrl-Z), frozen (``docker pause``),
or suspended with its machine.
"""

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

_SLICE = 1.0  # seconds that are waited for at a time
IN_FLIGHT = 2  # operations; readers report queues of 2, and longer ones have stalled some

_Order = tuple[Callable[[], None], "Future[None]"]


@dataclass
class CardWorkers:
    """The threads of one card; an operation may take ``patience`` seconds.

    ``stalled`` is set once one was given up: no other is begun then. ``release`` is called by the thread that
    ends last, whenever that is: a card that answers at last must not find its descriptor to be another's.
    """

    patience: float
    release: Callable[[], None]
    stalled: bool = False
    _at_work: int = IN_FLIGHT
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _orders: "SimpleQueue[_Order | None]" = field(default_factory=SimpleQueue)

    def begin(self, operation: Callable[[], None]) -> "Future[None]":
        """Have ``operation`` done as soon as a thread is free."""
        done: Future[None] = Future()
        if self.stalled:
            done.set_exception(TimeoutError())
        else:
            self._orders.put((operation, done))
        return done

    def outcome(self, done: "Future[None]", *, patient: bool = False) -> OSError | None:
        """Wait for an operation; its error, if it had one. ``stalled`` is set when the patience was over.

        ``patient`` waits for as long as it takes.
        """

        def answered(seconds: float) -> bool:
            with contextlib.suppress(TimeoutError):
                done.exception(seconds)
            return done.done()

        # Once it is stalled, nothing more is waited for.
        patience = 0 if self.stalled else self.patience
        if (self.stalled or not patient) and not within(patience, answered):
            self.stalled = True
            return TimeoutError()
        error = done.exception()
        if error is not None and not isinstance(error, OSError):
            raise error
        return error

    def work(self) -> None:
        """What each of the threads does until it is told to end."""
        while (order := self._orders.get()) is not None:
            operation, done = order
            try:
                operation()
            except BaseException as error:
                # Without its frames, which hold the future, which would hold it, and so the buffers too.
                done.set_exception(error.with_traceback(None))
            else:
                done.set_result(None)
        self.leave(1)

    def leave(self, count: int) -> None:
        """Note that ``count`` threads have ended, or never began; the last of all calls ``release``."""
        with self._lock:
            self._at_work -= count
            last = self._at_work == 0
        if last:
            self.release()

    def end(self, threads: Sequence[threading.Thread]) -> None:
        """Let the threads end; ``stalled`` is set when one does not, for it waits for the card."""
        with contextlib.suppress(Empty):
            while (order := self._orders.get_nowait()) is not None:  # not begun yet, and not wanted any more
                order[1].set_exception(OSError(errno.ECANCELED, "given up"))
        for _ in threads:
            self._orders.put(None)
        for thread in threads:

            def ended(seconds: float, thread: threading.Thread = thread) -> bool:
                thread.join(seconds)
                return not thread.is_alive()

            self.stalled |= not within(0 if self.stalled else self.patience, ended)


@contextlib.contextmanager
def running(workers: CardWorkers, name: str) -> Iterator[None]:
    """Run the threads of ``workers``, for a card called ``name``.

    At the end they have ended too, but for one that a card keeps waiting: then ``stalled`` is set. Raises
    RuntimeError when the system has no thread left.
    """
    threads: list[threading.Thread] = []
    try:
        for number in range(IN_FLIGHT):
            thread = threading.Thread(target=workers.work, name=f"{name} {number}", daemon=True)
            thread.start()
            threads.append(thread)
        yield
    finally:
        if len(threads) < IN_FLIGHT:  # what they share is released all the same
            workers.leave(IN_FLIGHT - len(threads))
        workers.end(threads)


def within(seconds: float, happened: Callable[[float], bool]) -> bool:
    """Wait until ``happened`` is true, for at most ``seconds`` in which this process ran; whether it was.

    ``happened`` is called with how long it may wait itself. A call that took far longer than that does not
    count: the process did not run.
    """
    left, begun = seconds, time.monotonic()
    while not happened(slice_ := min(left, _SLICE)):
        if left <= 0:
            return False
        now = time.monotonic()
        if now - begun < slice_ + _SLICE:
            left -= slice_
        begun = now
    return True
