"""The progress renderers: events to bars, plain lines, or JSON lines. All of it goes to standard error."""

import contextlib
import dataclasses
import json
import sys
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, Literal, Protocol, Self

from tqdm import tqdm

from imagebuilder.errors import PiimgError
from imagebuilder.events import Advanced, Event, Finished, Message, Started

Mode = Literal["auto", "bar", "plain", "json"]
_RUNNING = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {rate_fmt} {remaining}"
_UNCOUNTED = "{desc}"
_ENDED = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
_PLAIN_EVERY = 5.0  # seconds between two lines of one task


class Renderer(AbstractContextManager["Renderer"], Protocol):
    """A Reporter that owns the terminal while it is entered."""

    def emit(self, event: Event) -> None: ...


def renderer(mode: Mode, verbose: bool = False) -> Renderer:
    """The renderer for ``mode``; ``auto`` is bars at a terminal, plain lines elsewhere."""
    if mode == "json":
        return JsonLines(sys.stderr)
    if mode == "bar" or (mode == "auto" and sys.stderr.isatty()):
        return Bars(sys.stderr, verbose)
    return Plain(sys.stderr, verbose)


class _Base:
    def __init__(self, stream: IO[str], verbose: bool = False) -> None:
        self._stream = stream
        self._verbose = verbose
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back."""

    def _print(self, line: str) -> None:
        # A reader that went away (2>&1 | head) is no reason to fail a card.
        with contextlib.suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)


def _said(message: Message) -> str:
    text = f"{message.subject}: {message.text}" if message.subject else message.text
    return f"warning: {text}" if message.level == "warning" else text


class Bars(_Base):
    """A line for each subject, drawn by tqdm: what is done now, rate and time left."""

    def __init__(self, stream: IO[str], verbose: bool = False) -> None:
        super().__init__(stream, verbose)
        self._bars: dict[str, tqdm[None]] = {}
        self._titles: dict[str, str] = {}

    def expect(self, subject: str, total: int, title: str) -> None:
        """Show a bar, called ``title``, before its task begins: bars stand in the order they are made."""
        with self._lock:
            self._titles[subject] = title
            self._bar("wait", subject, total)

    def emit(self, event: Event) -> None:
        with self._lock:
            match event:
                case Started(task, subject, total):
                    self._bar(task, subject, total)
                case Advanced(task, subject, done, total) if total is not None or subject in self._bars:
                    bar = self._bar(task, subject, total)
                    bar.update(done - bar.n)
                case Finished(task, subject, ok) if subject in self._bars:
                    self._end(self._bars[subject], subject, task if ok else "stopped")
                case Message():
                    tqdm.write(_said(event), file=self._stream)

    def _bar(self, task: str, subject: str, total: int | None) -> "tqdm[None]":
        bar = self._bars.get(subject)
        if bar is None:
            bar = tqdm(
                total=total,
                unit="B",
                unit_scale=True,
                file=self._stream,
                dynamic_ncols=True,
                mininterval=0.2,
                bar_format=_UNCOUNTED if total is None else _RUNNING,
                position=len(self._bars),
                leave=True,
            )
            self._bars[subject] = bar
        label = self._label(subject, task)
        if bar.desc != label:
            bar.bar_format = _UNCOUNTED if total is None else _RUNNING
            bar.reset(total)
            bar.set_description_str(label)
        return bar

    def _end(self, bar: "tqdm[None]", subject: str, how: str) -> None:
        """Leave the bar as it is, without its rate: that would go on falling."""
        bar.bar_format = _ENDED if bar.total else _UNCOUNTED
        bar.set_description_str(self._label(subject, how))

    def _label(self, subject: str, task: str) -> str:
        return f"{self._titles.get(subject, subject):<20.20} {task:<9.9}"

    def close(self) -> None:
        with self._lock:
            for bar in self._bars.values():
                bar.close()
            self._bars.clear()


class Plain(_Base):
    """A line when a task starts or ends, and one every few seconds between; for logs and pipes."""

    def __init__(self, stream: IO[str], verbose: bool = False) -> None:
        super().__init__(stream, verbose)
        self._begun: dict[tuple[str, str], float] = {}
        self._told: dict[tuple[str, str], float] = {}

    def emit(self, event: Event) -> None:
        with self._lock:
            match event:
                case Started(task, subject, total):
                    self._begun[task, subject] = self._told[task, subject] = time.monotonic()
                    if total is not None or self._verbose:
                        self._print(f"{subject}: {task}" + (f" {size(total)}" if total else ""))
                case Advanced(task, subject, done, total):
                    self._advance(task, subject, done, total)
                case Finished(task, subject, ok):
                    begun = self._begun.pop((task, subject), None)
                    if begun is not None and (not ok or self._verbose):
                        self._print(f"{subject}: {task} {'done' if ok else 'failed'}")
                case Message():
                    self._print(_said(event))

    def _advance(self, task: str, subject: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        begun = self._begun.setdefault((task, subject), now)
        if now - self._told.setdefault((task, subject), now) < _PLAIN_EVERY:
            return
        self._told[task, subject] = now
        rate = done / max(now - begun, 1e-9)
        line = f"{subject}: {task} {size(done)}"
        if total:
            left = (total - done) / rate if rate else 0
            line = f"{subject}: {task} {100 * done // total} % of {size(total)}, {duration(left)} left"
        self._print(f"{line}, {size(int(rate))}/s")


class JsonLines(_Base):
    """One JSON object a line for every event: ``{"event": "advanced", "task": …}``; for programs."""

    def emit(self, event: Event) -> None:
        document = {"event": type(event).__name__.lower(), "time": round(time.time(), 3)}
        document |= dataclasses.asdict(event)
        with self._lock:
            self._print(json.dumps(document, default=str))


def print_error(error: PiimgError) -> None:
    """Say what went wrong and what to do, on standard error."""
    print(f"piimg: {error.message}", file=sys.stderr)
    for line in error.hint.splitlines():
        print(f"       {line}", file=sys.stderr)


def size(count: int) -> str:
    """A number of bytes for people, in decimal units as card makers count: 31.9 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: 0:42, 12:07, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
