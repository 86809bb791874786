"""Progress of a task: ``task()`` emits all its events and computes rate and remaining time."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from imagebuilder.events import Advanced, Finished, Reporter, Started

_WINDOW = 5.0  # seconds; the rate is the mean over this time
_SHORTEST = 0.1  # seconds; a rate over a shorter time is noise, unless the task is complete
_EVERY = 0.25  # seconds between two Advanced events
_STEPS = 200  # Advanced events of one task that are emitted even if they are closer together


@dataclass
class Task:
    """A running task, for use by one thread. Sizes in bytes, times in seconds.

    ``total`` may change while the task runs; it is None if it is unknown or not counted in bytes. Set ``ok``
    to False when the task failed without an exception.
    """

    reporter: Reporter
    name: str
    subject: str
    total: int | None
    left: Callable[[], float | None] | None
    clock: Callable[[], float]
    done: int = 0
    ok: bool = True
    _points: deque[tuple[float, int]] = field(default_factory=deque)  # time, bytes done at that time
    _emitted: tuple[float, int] | None = None  # the point of the last Advanced event

    def __post_init__(self) -> None:
        self._points.append((self.clock(), self.done))

    def advance(self, count: int) -> None:
        """Count ``count`` more bytes as done. Emits an Advanced event, unless the last one is too recent."""
        self.done += count
        now = self.clock()
        if self._is_due(now):
            self._emit(now)

    def restart(self, done: int, total: int | None) -> None:
        """Continue from ``done`` bytes, as a resumed download does. They do not count for the rate."""
        self.done, self.total, self._emitted = done, total, None
        self._points = deque([(self.clock(), done)])

    def close(self) -> None:
        """Emit the final count, unless the last Advanced event has it."""
        if self.done != (self._emitted[1] if self._emitted else self._points[0][1]):
            self._emit(self.clock())

    def _is_due(self, now: float) -> bool:
        if self._emitted is None or self.done == self.total:
            return True
        since, before = self._emitted
        # Emitting an event takes longer than reading a piece of a card: skip those that change no display.
        is_step = self.total is not None and (self.done - before) * _STEPS >= self.total
        return is_step or now - since >= _EVERY

    def _emit(self, now: float) -> None:
        self._emitted = now, self.done
        rate = self._rate(now)
        left = self.left() if self.left else self._left(rate)
        self.reporter.emit(Advanced(self.name, self.subject, self.done, self.total, rate, left))

    def _rate(self, now: float) -> float | None:
        """Bytes a second, the mean over the last seconds; None while the measured time is too short."""
        self._points.append((now, self.done))
        while now - self._points[0][0] > _WINDOW and len(self._points) > 2:
            self._points.popleft()
        since, before = self._points[0]
        shortest = 0.0 if self.done == self.total else _SHORTEST
        return (self.done - before) / (now - since) if now - since > shortest else None

    def _left(self, rate: float | None) -> float | None:
        """Seconds to the end of this task; None if unknown, and at its end."""
        if self.total is None or self.done >= self.total or not rate:
            return None
        return (self.total - self.done) / rate


@contextlib.contextmanager
def task(
    reporter: Reporter,
    name: str,
    subject: str,
    total: int | None = None,
    *,
    left: Callable[[], float | None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Task]:
    """Context manager of a task: emits Started first and Finished last, whatever happens in between.

    ``name``, ``subject`` and ``total`` are as in Started. ``left`` returns the seconds until all tasks of the
    subject end, where that is known; otherwise the remaining time is that of this task. Finished reports a
    failure when an exception leaves the block, KeyboardInterrupt included.
    """
    current = Task(reporter, name, subject, total, left, clock)
    ok = False
    try:
        reporter.emit(Started(name, subject, total))
        yield current
        current.close()
        ok = current.ok
    finally:
        reporter.emit(Finished(name, subject, ok))
