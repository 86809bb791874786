"""Worker threads of one card: a few operations in flight, each with a time limit.

A thread that waits for a card cannot be interrupted. So the job of a card does not wait for the card itself:
worker threads do, and the job waits for them, up to the time limit. They are daemon threads: a card that
never answers must not prevent the report of the other cards.

Only time in which this process ran counts as waiting: it may be stopped (Ctrl-Z), frozen (``docker pause``),
or suspended with its machine.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

_SLICE = 1.0  # seconds; the longest single wait
IN_FLIGHT = 2  # operations; readers report queues of 2, and some stall with longer ones

_Task = tuple[Callable[[], None], "Future[None]"]


@dataclass
class CardWorkers:
    """The worker threads of one card; an operation may take ``patience`` seconds.

    ``stalled`` is set once an operation exceeded the time limit: no other operation is begun then.
    ``release`` is called by the thread that ends last, however late: until then the threads may use the
    descriptor, and its number must not be given to another card.
    """

    patience: float
    release: Callable[[], None]
    stalled: bool = False
    _unfinished: int = IN_FLIGHT
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tasks: "SimpleQueue[_Task | None]" = field(default_factory=SimpleQueue)

    def begin(self, operation: Callable[[], None]) -> "Future[None]":
        """Perform ``operation`` as soon as a thread is free."""
        done: Future[None] = Future()
        if self.stalled:
            done.set_exception(TimeoutError())
        else:
            self._tasks.put((operation, done))
        return done

    def outcome(self, done: "Future[None]", *, patient: bool = False) -> OSError | None:
        """Wait for an operation and return its error, if any. Sets ``stalled`` after the time limit.

        ``patient`` waits without a time limit.
        """

        def answered(seconds: float) -> bool:
            with contextlib.suppress(TimeoutError):
                done.exception(seconds)
            return done.done()

        # Once stalled, do not wait again.
        patience = 0 if self.stalled else self.patience
        if (self.stalled or not patient) and not within(patience, answered):
            self.stalled = True
            return TimeoutError()
        error = done.exception()
        if error is not None and not isinstance(error, OSError):
            raise error
        return error

    def work(self) -> None:
        """Perform operations until the end is requested; run by each thread."""
        while (task := self._tasks.get()) is not None:
            operation, done = task
            try:
                operation()
            except BaseException as error:
                # Drop the traceback: its frames refer to the future, and this cycle would keep the buffers.
                done.set_exception(error.with_traceback(None))
            else:
                done.set_result(None)
        self.leave(1)

    def leave(self, count: int) -> None:
        """Note that ``count`` threads have ended, or never began; the last one calls ``release``."""
        with self._lock:
            self._unfinished -= count
            last = self._unfinished == 0
        if last:
            self.release()

    def end(self, threads: Sequence[threading.Thread]) -> None:
        """End the threads; sets ``stalled`` when one does not end because it waits for the card."""
        with contextlib.suppress(Empty):
            while (task := self._tasks.get_nowait()) is not None:  # not begun, and no longer needed
                task[1].set_exception(OSError(errno.ECANCELED, "given up"))
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:

            def ended(seconds: float, thread: threading.Thread = thread) -> bool:
                thread.join(seconds)
                return not thread.is_alive()

            self.stalled |= not within(0 if self.stalled else self.patience, ended)


@contextlib.contextmanager
def running(workers: CardWorkers, name: str) -> Iterator[None]:
    """Run the threads of ``workers``, for a card called ``name``.

    On exit the threads have ended, except one that still waits for the card: then ``stalled`` is set. Raises
    RuntimeError when the system cannot start another thread.
    """
    threads: list[threading.Thread] = []
    try:
        for number in range(IN_FLIGHT):
            thread = threading.Thread(target=workers.work, name=f"{name} {number}", daemon=True)
            thread.start()
            threads.append(thread)
        yield
    finally:
        if (
            len(threads) < IN_FLIGHT
        ):  # threads that did not start count as ended, so that ``release`` is called
            workers.leave(IN_FLIGHT - len(threads))
        workers.end(threads)


@contextlib.contextmanager
def with_descriptor(name: str, handle: int, patience: float) -> Iterator[tuple[CardWorkers, int]]:
    """The worker threads of a card, and their own descriptor, which they close.

    A thread that waits for a slow card still uses that descriptor when the card answers. If it were closed
    earlier, its number could by then belong to another card.
    """
    own = os.dup(handle)
    workers = CardWorkers(patience, lambda: os.close(own))
    with running(workers, name):
        yield workers, own


def within(seconds: float, happened: Callable[[float], bool]) -> bool:
    """Wait until ``happened`` is true, for at most ``seconds`` in which this process ran; True if it was.

    ``happened`` gets the number of seconds that it may wait itself. A call that took far longer than that
    does not count: the process did not run.
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
