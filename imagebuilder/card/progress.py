"""How far a card is, how fast it is, and how long it will take: what is told while it is worked on."""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagebuilder.errors import Interrupted
from imagebuilder.events import Advanced, Finished, Reporter, Started

SAMPLE, COMPARE, PROBE, WRITE, READ_BACK = "sample", "compare", "probe", "write", "read-back"
"""The tasks of a card."""

FLASH, VERIFY = "flash", "verify"
"""The whole that they are parts of."""

_READING = (COMPARE, READ_BACK)
_WINDOW = 5.0  # seconds; the rate "now" is that of so long a time
_OFTEN = 0.25  # seconds between two events of a task
_STEPS = 200  # of a task, which are told however quickly they come
_POINTS = 240  # of the rates over time; with more, every second one is left out
_FASTER = 3  # times: how much faster a card reads than it writes, until that is measured

Rate = tuple[float, str, int]
"""Seconds since the beginning, the task, and bytes a second since the rate before."""


@dataclass
class Meter:
    """The progress of one card, told to ``reporter``; ``stop`` is a wish to stop, heard at every step.

    ``ahead`` are the bytes still to be done of each task, as far as they are known; ``through`` and
    ``seconds`` are what was done. ``touched`` once something was written; ``retries`` counts what was tried
    again. ``reading`` is how fast the card reads, in bytes a second, before a task that reads tells.
    """

    subject: str
    reporter: Reporter
    stop: threading.Event
    touched: bool = False
    retries: int = 0
    reading: float | None = None
    ahead: Counter[str] = field(default_factory=Counter)
    through: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    rates: list[Rate] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)
    _every: float = 1.0
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _noted: tuple[float, int] = (0.0, 0)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator["Task"]:
        """Tell of a task of ``total`` bytes, and take its time."""
        begun, before, ok = time.monotonic(), self.seconds.get(name, 0.0), False
        self._recent, self._noted = deque([(begun, 0)]), (begun, 0)
        self.ahead[name] = total
        self.reporter.emit(Started(name, self.subject, total))
        task = Task(self, name, total, begun, before)
        try:
            yield task
            ok = True
        finally:
            task.take_time()
            self.ahead[name] = 0
            self.reporter.emit(Finished(name, self.subject, ok))

    def heed_stop(self) -> None:
        """Raise Interrupted, saying what state the card is in, when it is wished to stop."""
        if self.stop.is_set():
            state = "it does not boot until it is flashed again" if self.touched else "it is as it was"
            raise Interrupted(f"interrupted: {state}", "start it again: what is right on it is kept")

    def mean(self, *names: str) -> float | None:
        """Bytes a second over all that was done of some tasks; None when nothing was."""
        took = sum(self.seconds.get(name, 0.0) for name in names)
        through = sum(self.through[name] for name in names)
        return through / took if took > 0 and through else None

    def left(self) -> float | None:
        """Seconds until everything ahead is done; None when nothing was measured yet."""
        writing = self.mean(WRITE)
        reading = self.mean(*_READING) or self.reading or (writing * _FASTER if writing else None)
        if reading is None:
            return None
        to_read = sum(self.ahead[name] for name in _READING)
        return to_read / reading + self.ahead[WRITE] / (writing or reading / _FASTER)

    def rate_now(self, now: float, done: int) -> float | None:
        """Bytes a second of the task at hand over the last seconds."""
        self._recent.append((now, done))
        while now - self._recent[0][0] > _WINDOW and len(self._recent) > 2:
            self._recent.popleft()
        since, before = self._recent[0]
        return (done - before) / (now - since) if now > since else None

    def note(self, name: str, now: float, done: int) -> None:
        """Keep a point of the rates over time, unless the last one is too young."""
        since, before = self._noted
        if now - since < self._every:
            return
        self.rates.append((round(now - self._begun, 2), name, round((done - before) / (now - since))))
        self._noted = (now, done)
        if len(self.rates) > _POINTS:
            self.rates, self._every = self.rates[1::2], self._every * 2


@dataclass
class Task:
    """A task that is being done."""

    meter: Meter
    name: str
    total: int
    begun: float
    before: float  # seconds that earlier tasks of this name took
    done: int = 0
    told: tuple[float, int] = (0.0, 0)  # when it was told last how much is done, and how much that was

    def advance(self, count: int) -> None:
        """``count`` bytes more are through. Raises Interrupted when it is wished to stop."""
        meter, now = self.meter, time.monotonic()
        self.done += count
        meter.through[self.name] += count
        meter.ahead[self.name] = self.total - self.done
        since, before = self.told
        # Telling costs more than reading a piece does: only what changes something for who looks is told.
        if now - since >= _OFTEN or (self.done - before) * _STEPS >= self.total or self.done == self.total:
            self._tell(now)
        meter.heed_stop()

    def _tell(self, now: float) -> None:
        meter, self.told = self.meter, (now, self.done)
        self.take_time()
        meter.note(self.name, now, self.done)
        rate = meter.rate_now(now, self.done)
        event = Advanced(self.name, meter.subject, self.done, self.total, rate, meter.left())
        meter.reporter.emit(event)

    def skip(self, count: int) -> None:
        """``count`` bytes are not to be done after all."""
        self.total -= count
        self.meter.ahead[self.name] = self.total - self.done

    def take_time(self) -> None:
        """Count the time since the beginning to the task's name."""
        self.meter.seconds[self.name] = self.before + time.monotonic() - self.begun
