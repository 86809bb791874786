"""Progress bars at a terminal: one line for each subject."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import IO

from imagebuilder.cli.output import fitted, log_shown, terminal_text
from imagebuilder.cli.progress.base import Renderer, as_line, log_message
from imagebuilder.cli.progress.layout import lines, width_of
from imagebuilder.cli.progress.screen import Screen
from imagebuilder.events import Event, Message

_PAINT_EVERY = 0.2  # seconds


class Bars(Renderer):
    """A line for each subject: current task, rate and time left; see layout.py.

    Only one thread writes to the terminal, a few times per second, so that a stopped terminal (Ctrl-S)
    does not block the workers.
    """

    moves = True

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream, clock)
        self._screen = Screen(stream)
        self._ascii = not (getattr(stream, "encoding", None) or "").lower().startswith("utf")
        self._above: list[str] = []  # lines to be printed above the bars
        self._painter: threading.Thread | None = None
        self._closing = threading.Event()
        self._painting = threading.RLock()

    def expect(
        self,
        subject: str,
        total: int,
        title: str,
        line: str = "",
        data: Mapping[str, object] | None = None,
    ) -> None:
        super().expect(subject, total, title, line, data)
        self._begin()

    def _noted(self, message: Message, title: str) -> None:
        self._begin()
        if title and len(f"{title} {message.text}") > width_of(self._screen.size[0]):
            self._put_above(f"{title}: {message.text}")  # the line will be truncated

    def emit(self, event: Event) -> None:
        if isinstance(event, Message):
            log_message(event)
            self._put_above(as_line(event))
            return
        with self._lock:
            self._track(event)
            self._begin()

    def say(self, text: str) -> None:
        log_shown(text)
        self._put_above(text)

    def _put_above(self, text: str) -> None:
        with self._lock:
            if self._painter is not None:
                self._above += fitted(terminal_text(text), self._stream).splitlines()
                return
        self._print(fitted(text, self._stream))

    def close(self) -> None:
        with self._lock:
            painter, self._painter = self._painter, None
        if painter is not None:
            self._closing.set()
            painter.join()
            for track in self._tracks.all.values():
                track.end(self._clock())
            self._paint(last=True)
            self._closing.clear()
        super().close()

    def last_words(self, text: str) -> None:
        if self._painting.acquire(timeout=1):  # never released: nothing may paint over it
            text = self._screen.below + text
        super().last_words(text)

    def _begin(self) -> None:
        with self._lock:
            if self._painter is None:
                self._painter = threading.Thread(target=self._keep_painting, name="bars", daemon=True)
                self._painter.start()

    def _keep_painting(self) -> None:
        while not self._closing.wait(_PAINT_EVERY):
            self._paint()

    def _paint(self, last: bool = False) -> None:
        with self._painting:
            columns, rows = self._screen.size
            with self._lock:
                above, self._above = self._above, []
                fits = None if last else rows  # at the end all lines are printed, even if they scroll
                block = lines(self._tracks, self._clock(), columns, fits, self._ascii, self.stopping)
            self._screen.paint(block, above, last)
