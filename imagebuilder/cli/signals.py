"""Signal handling while cards are written: the first SIGINT, SIGTERM or SIGHUP stops gracefully.

The second one exits at once. A run ends with a report, which must not be interrupted. So after cards were
written, signals are ignored, except within ``signals_restored``.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from imagebuilder.cli.progress.base import Renderer
from imagebuilder.events import Message
from imagebuilder.text import printable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130  # exit code

Handlers = Mapping[signal.Signals, Any]
"""The handler of each of ``SIGNALS``."""


def handlers() -> Handlers:
    """The current handler of each of ``SIGNALS``."""
    return {number: signal.getsignal(number) for number in SIGNALS}


@contextmanager
def signals_restored(before: Handlers) -> Iterator[None]:
    """Within the block, the handlers are those of ``before``: a question or a wait can be interrupted.

    Afterwards the signals are ignored in any case, so that the reports are not lost.
    """
    try:
        for number, handler in before.items():
            signal.signal(number, handler)
        yield
    finally:
        ignore_signals()


def ignore_signals() -> None:
    """Ignore the signals: the remaining work is short and must not be interrupted."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stopping(
    stop: threading.Event,
    renderer: Renderer,
    at_first: Callable[[], None] = lambda: None,
    at_once: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP sets ``stop`` and prints a message.

    Nothing is raised. The second one exits at once, and prints the unfinished subjects of ``renderer``. This
    is safe: a card that is being written has no partition table until it has been read back. After the block
    signals are ignored, because the report with the state of each card follows; further work runs within
    ``signals_restored``. A signal that was ignored from the start, such as SIGHUP under nohup, stays ignored.
    ``at_first`` is called at the first signal, ``at_once`` before the process exits at once.
    """
    stop_requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stop_requested
        if stop_requested:
            _end_at_once(renderer, at_once)
        stop_requested = True
        stop.set()
        at_first()
        renderer.stopping = True
        renderer.emit(Message("info", "stopping after the current block; repeat to stop at once"))

    try:
        for number, handler in handlers().items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    finally:
        ignore_signals()


def _end_at_once(renderer: Renderer, at_once: Callable[[], None]) -> None:
    try:
        at_once()
        names = printable(", ".join(" ".join(title.split()) for title in renderer.unfinished()), None)
        renderer.last_words(f"piimg: stopped at once; not finished: {names or 'none'}")
    finally:
        os._exit(INTERRUPTED)
