"""Progress as plain lines on standard error, for logs and pipes."""

import time
from collections.abc import Callable
from typing import IO

from imagebuilder.cli.format import duration, size
from imagebuilder.cli.output import fitted
from imagebuilder.cli.progress.base import Renderer, as_line, log_message
from imagebuilder.cli.progress.tracks import PREPARE, WHOLE, Track
from imagebuilder.events import Advanced, Event, Finished, Message, Started

_PLAIN_EVERY = 5.0  # seconds between two lines of a subject


class Plain(Renderer):
    """A line when a task starts or ends, and one every few seconds in between."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream, clock)
        self._printed: dict[str, float] = {}  # when a line of each subject was last printed

    def emit(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Message):
                log_message(event)
                self._print(fitted(as_line(event), self._stream))
                return
            track, subject, now = self._track(event), event.subject, self._clock()
            match event:
                case Started(task, _, total):
                    self._printed[subject] = now
                    if total is not None:
                        self._print(f"{subject}: {task}" + (f" {size(total)}" if total else ""))
                case Advanced():
                    if now - self._printed.setdefault(subject, now) >= _PLAIN_EVERY:
                        self._printed[subject] = now
                        self._print(f"{subject}: {_progress_text(track, now)}")
                case Finished(task, _, ok):
                    if not ok or task in WHOLE or task == PREPARE:
                        how = "done" if ok else "stopped" if self.stopping else "failed"
                        self._print(f"{subject}: {task} {how} after {duration(track.elapsed(now))}")


def _progress_text(track: Track, now: float) -> str:
    """The progress of a subject as text: task, rate, and time left."""
    text = f"{track.task} {size(track.done)}"
    if track.total:
        text = f"{track.task} {100 * track.done // track.total} % of {size(track.total)}"
    rate, left = track.rate(now), track.left(now)
    text += "" if rate is None else f", {size(int(rate))}/s"
    return text + ("" if left is None else f", {duration(left)} left")
