"""The progress renderers: events to bars, plain lines, or JSON lines. All of it goes to standard error."""

import contextlib
import dataclasses
import json
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

from imagebuilder.cli.bars import lines, width_of
from imagebuilder.cli.screen import Screen
from imagebuilder.cli.track import WHOLE, Track, Tracks
from imagebuilder.cli.units import duration as duration
from imagebuilder.cli.units import size as size
from imagebuilder.errors import PiimgError
from imagebuilder.events import Advanced, Event, Finished, Message, Started

Mode = Literal["auto", "bar", "plain", "json"]
_PLAIN_EVERY = 5.0  # seconds between two lines of one subject
_PAINT_EVERY = 0.2  # seconds


def renderer(mode: Mode, verbose: bool = False) -> "Renderer":
    """The renderer for ``mode``; ``auto`` is bars at a terminal, plain lines elsewhere.

    A terminal that cannot move its cursor (TERM=dumb) gets plain lines in any case.
    """
    if mode == "json":
        return JsonLines(sys.stderr)
    able = os.environ.get("TERM", "dumb") != "dumb" if sys.stderr.isatty() else mode == "bar"
    if mode != "plain" and able:
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
        with self._lock, contextlib.suppress(OSError, ValueError, RuntimeError):
            self._stream.write(f"{line}\n")
            self._stream.flush()


def _said(message: Message) -> str:
    text = f"{message.subject}: {message.text}" if message.subject else message.text
    return f"warning: {text}" if message.level == "warning" else text


class Bars(Renderer):
    """A line for each subject: what is done now, rate and time left; see bars.py.

    Only a thread of its own writes to the terminal, a few times a second: a terminal that is held (Ctrl-S)
    keeps nobody from working.
    """

    moves = True

    def __init__(
        self, stream: IO[str], verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, verbose, clock)
        self._screen = Screen(stream)
        self._ascii = not (getattr(stream, "encoding", None) or "").lower().startswith("utf")
        self._above: list[str] = []  # lines yet to be printed
        self._painter: threading.Thread | None = None
        self._closing = threading.Event()
        self._painting = threading.RLock()

    def expect(self, subject: str, total: int, title: str, line: str = "") -> None:
        super().expect(subject, total, title, line)
        self._begin()

    def _noted(self, message: Message, title: str) -> None:
        self._begin()
        if title and len(f"{title} {message.text}") > width_of(self._screen.size[0]):
            self.say(f"{title}: {message.text}")  # its line will be cut short

    def emit(self, event: Event) -> None:
        if isinstance(event, Message):
            self.say(_said(event))
            return
        with self._lock:
            self._track(event)
            self._begin()

    def say(self, text: str) -> None:
        with self._lock:
            if self._painter is not None:
                self._above += text.splitlines()
                return
        self._print(text)

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
        if self._painting.acquire(timeout=1):  # and never released: nothing may paint over it
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
                fits = None if last else rows  # at the end everyone is told, even if it scrolls
                block = lines(self._tracks, self._clock(), columns, fits, self._ascii, self.stopping)
            self._screen.paint(block, above, last)


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
                self._print(_said(event))
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
            self._print(json.dumps(document, default=str))


def print_error(error: PiimgError | OSError, reporter: object = None) -> None:
    """Say what went wrong and what to do, on standard error; above the bars of ``reporter``."""
    if isinstance(error, OSError):
        error = PiimgError(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    said = [f"piimg: {error.message}", *(f"       {line}" for line in error.hint.splitlines())]
    if isinstance(reporter, Renderer):
        reporter.say("\n".join(said))
    else:
        with contextlib.suppress(OSError):  # a terminal that went away
            print("\n".join(said), file=sys.stderr)
