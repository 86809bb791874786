"""Progress as plain lines on standard error, for logs and pipes."""

import time
from collections.abc import Callable
from typing import IO

from imagebuilder.cli.format import duration, size
from imagebuilder.cli.progress.base import Renderer, as_line, log_message
from imagebuilder.cli.progress.tracks import WHOLE, Track
from imagebuilder.events import Advanced, Event, Finished, Message, Started

_PLAIN_EVERY = 5.0  # seconds between two lines of one subject


class Plain(Renderer):
    """A line when a task starts or ends, and one every few seconds between; for logs and pipes."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream, clock)
        self._told: dict[str, float] = {}  # when each subject was last told of

    def emit(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Message):
                log_message(event)
                self._print(as_line(event))
                return
            track, subject, now = self._track(event), event.subject, self._clock()
            match event:
                case Started(task, _, total):
                    self._told[subject] = now
                    if total is not None:
                        self._print(f"{subject}: {task}" + (f" {size(total)}" if total else ""))
                case Advanced():
                    if now - self._told.setdefault(subject, now) >= _PLAIN_EVERY:
                        self._told[subject] = now
                        self._print(f"{subject}: {_far(track, now)}")
                case Finished(task, _, ok):
                    if not ok or task in WHOLE:
                        how = "done" if ok else "stopped" if self.stopping else "failed"
                        self._print(f"{subject}: {task} {how} after {duration(track.elapsed(now))}")


def _far(track: Track, now: float) -> str:
    """How far a subject is, as text: its task, the rate, and the time left."""
    said = f"{track.task} {size(track.done)}"
    if track.total:
        said = f"{track.task} {100 * track.done // track.total} % of {size(track.total)}"
    rate, left = track.rate(now), track.left(now)
    said += "" if rate is None else f", {size(int(rate))}/s"
    return said + ("" if left is None else f", {duration(left)} left")
