"""The progress of one card: its tasks, its rates over time, and the time left until all of them are done."""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagebuilder import progress
from imagebuilder.errors import Interrupted
from imagebuilder.events import Reporter

_log = logging.getLogger(__name__)

SAMPLE, COMPARE, PROBE, WRITE, READ_BACK = "sample", "compare", "probe", "write", "read-back"
"""The tasks of a card."""

FLASH, VERIFY = "flash", "verify"
"""The jobs that consist of these tasks."""

_READING = (COMPARE, READ_BACK)
_POINTS = 240  # at most this many rates over time; with more, every second one is removed
_FASTER = 3  # the assumed ratio of read rate to write rate, until both are measured

Rate = tuple[float, str, int]
"""Seconds since the beginning, the task, and bytes per second since the previous rate."""


@dataclass
class Meter:
    """The progress of one card, emitted to ``reporter``; each step checks whether ``stop`` is set.

    ``ahead`` has the bytes to do of each task, as far as they are known; ``through`` the bytes done.
    ``touched``: something was written. ``retries``: the number of repeated operations. ``reading``: the read
    rate of the card in bytes per second, used until a task has measured it.
    """

    subject: str
    reporter: Reporter
    stop: threading.Event
    touched: bool = False
    retries: int = 0
    reading: float | None = None
    ahead: Counter[str] = field(default_factory=Counter)
    through: Counter[str] = field(default_factory=Counter)
    rates: list[Rate] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)
    _seconds: dict[str, float] = field(default_factory=dict)  # per ended task, by name
    _running: tuple[str, float] | None = None  # the current task, and when it began
    _every: float = 1.0
    _noted: tuple[float, int] = (0.0, 0)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator["CardTask"]:
        """Run a task of ``total`` bytes; only one at a time."""
        begun, before = time.monotonic(), self.through[name]
        self._running, self._noted = (name, begun), (begun, 0)
        self.ahead[name] = total
        try:
            with progress.task(self.reporter, name, self.subject, total, left=self.left) as task:
                yield CardTask(self, task)
        finally:
            done, seconds = self.through[name] - before, time.monotonic() - begun
            _log.info("%s: %s %d of %d bytes in %.1f s", self.subject, name, done, total, seconds)
            self._seconds[name], self._running = self._took(name), None
            self.ahead[name] = 0

    def heed_stop(self) -> None:
        """Raise Interrupted when ``stop`` is set; the message gives the state of the card."""
        if self.stop.is_set():
            state = "it does not boot until it is flashed again" if self.touched else "it is unchanged"
            raise Interrupted(
                f"interrupted: {state}", "run the command again: data that is already right is kept"
            )

    def mean(self, *names: str) -> float | None:
        """The mean rate of the named tasks in bytes per second; None when nothing was done."""
        took = sum(self._took(name) for name in names)
        through = sum(self.through[name] for name in names)
        return through / took if took > 0 and through else None

    def _took(self, name: str) -> float:
        """The seconds that the tasks of this name have taken so far."""
        running, since = self._running or ("", 0.0)
        return self._seconds.get(name, 0.0) + (time.monotonic() - since if name == running else 0.0)

    def left(self) -> float | None:
        """Estimated seconds until everything is done; None when nothing was measured yet."""
        writing = self.mean(WRITE)
        reading = self.mean(*_READING) or self.reading or (writing * _FASTER if writing else None)
        if reading is None:
            return None
        to_read = sum(self.ahead[name] for name in _READING)
        return to_read / reading + self.ahead[WRITE] / (writing or reading / _FASTER)

    def note(self, name: str, done: int) -> None:
        """Add a rate to ``rates``, unless the last one is too recent."""
        now, (since, before) = time.monotonic(), self._noted
        if now - since < self._every:
            return
        self.rates.append((round(now - self._begun, 2), name, round((done - before) / (now - since))))
        self._noted = (now, done)
        if len(self.rates) > _POINTS:
            self.rates, self._every = self.rates[1::2], self._every * 2


@dataclass(frozen=True)
class CardTask:
    """A running task of a card."""

    meter: Meter
    task: progress.Task

    def advance(self, count: int) -> None:
        """Count ``count`` more bytes as done. Raises Interrupted when ``meter.stop`` is set."""
        meter, name = self.meter, self.task.name
        meter.through[name] += count
        meter.ahead[name] -= count
        self.task.advance(count)
        meter.note(name, self.task.done)
        meter.heed_stop()

    def skip(self, count: int) -> None:
        """Subtract ``count`` bytes, which turned out to be unnecessary, from the total."""
        if self.task.total is not None:
            self.task.total -= count
        self.meter.ahead[self.task.name] -= count
