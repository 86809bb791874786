"""The progress renderers: events to lines, plain or JSON, on standard error. Bars are in painting.py."""

import contextlib
import dataclasses
import os
import select
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, Literal, Self

from imagebuilder.cli.output import echo, json_text, terminal_text
from imagebuilder.cli.track import WHOLE, Track, Tracks
from imagebuilder.cli.units import duration as duration
from imagebuilder.cli.units import size as size
from imagebuilder.errors import PiimgError
from imagebuilder.events import Advanced, Event, Finished, Message, Started
from imagebuilder.text import printable

Mode = Literal["auto", "bar", "plain", "json"]
_PLAIN_EVERY = 5.0  # seconds between two lines of one subject


def renderer(mode: Mode, verbose: bool = False) -> "Renderer":
    """The renderer for ``mode``; ``auto`` is bars at a terminal, plain lines elsewhere.

    A terminal that cannot move its cursor (TERM=dumb) gets plain lines in any case.
    """
    if mode == "json":
        return JsonLines(sys.stderr)
    able = os.environ.get("TERM", "dumb") != "dumb" if sys.stderr.isatty() else mode == "bar"
    if mode != "plain" and able:
        from imagebuilder.cli.painting import Bars  # with it comes tqdm, which nobody else waits for

        return Bars(sys.stderr, verbose)
    return Plain(sys.stderr, verbose)


class Renderer(AbstractContextManager["Renderer"]):
    """A Reporter that owns the terminal while it is entered, and knows how far each subject is.

    ``moves``: what it shows can change in place.
    """

    moves = False

    def __init__(
        self, stream: IO[str], verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._verbose, self._clock = stream, verbose, clock
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


def as_line(message: Message) -> str:
    """A message as text."""
    text = f"{message.subject}: {message.text}" if message.subject else message.text
    return f"warning: {text}" if message.level == "warning" else text


class Plain(Renderer):
    """A line when a task starts or ends, and one every few seconds between; for logs and pipes."""

    def __init__(
        self, stream: IO[str], verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, verbose, clock)
        self._told: dict[str, float] = {}  # when each subject was last told of

    def emit(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Message):
                self._print(as_line(event))
                return
            track, subject, now = self._track(event), event.subject, self._clock()
            match event:
                case Started(task, _, total):
                    self._told[subject] = now
                    if total is not None or self._verbose:
                        self._print(f"{subject}: {task}" + (f" {size(total)}" if total else ""))
                case Advanced():
                    if now - self._told.setdefault(subject, now) >= _PLAIN_EVERY:
                        self._told[subject] = now
                        self._print(f"{subject}: {_far(track, now)}")
                case Finished(task, _, ok):
                    if not ok or self._verbose or task in WHOLE:
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


class JsonLines(Renderer):
    """One JSON object a line for every event: ``{"event": "advanced", "task": …}``; for programs."""

    def _noted(self, message: Message, title: str) -> None:
        self.emit(message)

    def emit(self, event: Event) -> None:
        document = {"event": type(event).__name__.lower(), "time": round(time.time(), 3)}
        document |= dataclasses.asdict(event)
        if isinstance(event, Advanced):
            document["rate"] = None if event.rate is None else round(event.rate)
            document["left"] = None if event.left is None else round(event.left, 1)
        with self._lock:
            if not isinstance(event, Message):
                self._track(event)
            self._print(json_text(document))


def print_error(error: PiimgError | OSError, reporter: object = None) -> None:
    """Say what went wrong and what to do, on standard error; above the bars of ``reporter``."""
    if isinstance(error, OSError):
        error = PiimgError(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    said = [f"piimg: {printable(error.message, None)}"]
    said += [f"       {line}" for line in error.hint.splitlines()]
    if isinstance(reporter, Renderer):
        reporter.say("\n".join(said))
    else:
        with contextlib.suppress(OSError):  # a terminal that went away
            echo("\n".join(said), err=True)
