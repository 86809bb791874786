"""What all progress renderers share: the stream, the lock, and how far each subject is."""

import contextlib
import logging
import os
import select
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, Self

from imagebuilder.cli.output import log_shown, terminal_text
from imagebuilder.cli.progress.tracks import Track, Tracks
from imagebuilder.events import Advanced, Event, Finished, Message, Started


class Renderer(AbstractContextManager["Renderer"]):
    """A Reporter that owns the terminal while it is entered, and knows how far each subject is.

    ``moves``: what it shows can change in place.
    """

    moves = False

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.RLock()
        self._writing = threading.RLock()  # of its own: a held terminal (Ctrl-S) keeps nobody from working
        self._tracks = Tracks()
        self.stopping = False  # the user wished to stop: what ends now has not failed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def emit(self, event: Event) -> None:
        """Take in an event. Safe from any thread, and from a signal handler."""

    def expect(self, subject: str, total: int, title: str, line: str = "") -> None:
        """Announce a subject of ``total`` bytes, called ``title``: they are shown in the order announced.

        Where ``line`` is that of a note, the subject takes its place.
        """
        with self._lock:
            self._tracks.expect(subject, total, title, line)

    def note(self, line: str, title: str, text: str, data: Mapping[str, object] | None = None) -> None:
        """Have ``line``, called ``title``, say a text until something else is said of it; none: it goes.

        ``data`` is for programs.
        """
        with self._lock:
            if self._tracks.note(line, title, text) and text:
                self._noted(Message("info", text, line if title else "", data or {}), title)

    def arrange(self, lines: Sequence[str]) -> None:
        """Show ``lines`` in this order, before all others."""
        with self._lock:
            self._tracks.arrange(lines)

    def _noted(self, message: Message, title: str) -> None:
        """Show a note that is new."""
        self._print(f"{' '.join(title.split())}: {message.text}" if title else message.text)

    def unfinished(self) -> list[str]:
        """The titles of those that were announced and have not come to an end."""
        return [track.title for track in self._tracks.unfinished(self._clock()) if track.size is not None]

    def close(self) -> None:
        """Give the terminal back; the next event takes it again."""
        with self._lock:
            self._tracks = Tracks()

    def say(self, text: str) -> None:
        """Print a line; above the bars where there are some."""
        log_shown(text)
        self._print(text)

    def last_words(self, text: str) -> None:
        """Print a line from a signal handler, whatever else is being printed: the process is about to end."""
        with contextlib.suppress(OSError, ValueError):
            number = self._stream.fileno()
            if select.select([], [number], [], 1)[1]:
                os.write(number, f"{text}\n".encode(errors="backslashreplace"))

    def _track(self, event: Started | Advanced | Finished) -> Track:
        return self._tracks.apply(event, self._clock())

    def _print(self, line: str) -> None:
        # One write a line, and one line at a time: print() writes the line's end by itself, and another
        # thread's line may come between.
        # A reader that went away (2>&1 | head) is no reason to fail a card; nor is (RuntimeError) a signal
        # that came while a line was on its way out.
        with self._writing, contextlib.suppress(OSError, ValueError, RuntimeError):
            self._stream.write(f"{terminal_text(line)}\n")
            self._stream.flush()


def log_message(message: Message) -> None:
    """Log a message that the user is shown, unless it comes from the log (-v)."""
    if "logger" not in message.data:
        log_shown(as_line(message), logging.WARNING if message.level == "warning" else logging.INFO)


def as_line(message: Message) -> str:
    """A message as text."""
    text = f"{message.subject}: {message.text}" if message.subject else message.text
    return f"warning: {text}" if message.level == "warning" else text
