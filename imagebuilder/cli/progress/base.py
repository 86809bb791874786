"""The base class of the progress renderers: stream, lock, and the progress of each subject."""

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

from imagebuilder.card.report import CardReport
from imagebuilder.cli.output import fitted, log_shown, terminal_text
from imagebuilder.cli.progress.tracks import Track, Tracks
from imagebuilder.events import Advanced, Event, Finished, Message, Started

ALL, QUESTION = "all", "question"
"""Lines of a station that are about no slot; no slot has these names."""


class Renderer(AbstractContextManager["Renderer"]):
    """A Reporter that owns the terminal within its block, and tracks the progress of each subject.

    ``moves``: its output can be updated in place.
    """

    moves = False

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.RLock()
        self._writing = threading.RLock()  # separate: a stopped terminal (Ctrl-S) must not block workers
        self._tracks = Tracks()
        self.stopping = False  # the user asked to stop: tasks that end now have not failed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def emit(self, event: Event) -> None:
        """Show an event. Safe in any thread, and in a signal handler."""

    def expect(
        self,
        subject: str,
        total: int,
        title: str,
        line: str = "",
        data: Mapping[str, object] | None = None,
    ) -> None:
        """Announce a subject of ``total`` bytes with a ``title``; subjects are shown in this order.

        If ``line`` is that of a note, the subject replaces the note. ``data`` has its slot and its node.
        """
        with self._lock:
            self._tracks.expect(subject, total, title, line)

    def note(self, line: str, title: str, text: str, data: Mapping[str, object] | None = None) -> None:
        """Show a text in ``line``, with a ``title``, until it is replaced; an empty text removes the line.

        ``data`` is for programs.
        """
        with self._lock:
            if self._tracks.note(line, title, text) and text:
                self._noted(Message("info", text, line if title else "", data or {}), title)

    def arrange(self, lines: Sequence[str]) -> None:
        """Show ``lines`` in this order, before all others."""
        with self._lock:
            self._tracks.arrange(lines)

    def goals(self, nodes: Sequence[str], done: Mapping[str, str] | None = None) -> None:
        """This run writes ``nodes``; ``done`` have a card already, with when and where. Not shown here."""

    def judged(self, report: CardReport, text: str) -> None:
        """A card has its verdict, and ``text`` says what to do with it. Not shown here: a table follows."""

    def wants(self, nodes: Sequence[str]) -> None:
        """More cards are waited for, for ``nodes``. Not shown here: the command prints it."""

    def asks(self, text: str, about: Sequence[str] = ()) -> None:
        """A question is open, or, with an empty text, no more; ``about`` are the cards, a line each.

        Not shown here: the command asks.
        """

    def _noted(self, message: Message, title: str) -> None:
        """Show a new note."""
        self._print(f"{' '.join(title.split())}: {message.text}" if title else message.text)

    def unfinished(self) -> list[str]:
        """The titles of the announced subjects that are not finished."""
        return [track.title for track in self._tracks.unfinished(self._clock()) if track.size is not None]

    def close(self) -> None:
        """Release the terminal; the next event takes it again."""
        with self._lock:
            self._tracks = Tracks()

    def say(self, text: str) -> None:
        """Print a line, above the bars if there are any."""
        log_shown(text)
        self._print(fitted(text, self._stream))

    def last_words(self, text: str) -> None:
        """Print a line from a signal handler, also during other output: the process is about to exit."""
        with contextlib.suppress(OSError, ValueError):
            number = self._stream.fileno()
            if select.select([], [number], [], 1)[1]:
                os.write(number, f"{text}\n".encode(errors="backslashreplace"))

    def _track(self, event: Started | Advanced | Finished) -> Track:
        return self._tracks.apply(event, self._clock())

    def _print(self, line: str) -> None:
        # One write for each line: print() writes the line end separately, and another thread could print
        # in between. A closed pipe (2>&1 | head) must not fail a card, and neither must a signal during the
        # write (RuntimeError).
        with self._writing, contextlib.suppress(OSError, ValueError, RuntimeError):
            self._stream.write(f"{terminal_text(line)}\n")
            self._stream.flush()


def log_message(message: Message) -> None:
    """Log a message for the user, unless it comes from the log (-v)."""
    if "logger" not in message.data:
        log_shown(as_line(message), logging.WARNING if message.level == "warning" else logging.INFO)


def as_line(message: Message) -> str:
    """A message as text."""
    text = f"{message.subject}: {message.text}" if message.subject else message.text
    return f"warning: {text}" if message.level == "warning" else text
