"""Signal handling while cards are written: the first SIGINT, SIGTERM or SIGHUP stops gracefully.

The second one exits at once. A run ends with a report, which must not be cut off. So once cards were written,
signals are ignored, but within ``heard``.
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
"""What each of ``SIGNALS`` does."""


def handlers() -> Handlers:
    """What each of ``SIGNALS`` does now."""
    return {number: signal.getsignal(number) for number in SIGNALS}


@contextmanager
def heard(before: Handlers) -> Iterator[None]:
    """Within, the signals do what they did ``before``: there is a question, or a wait, to be interrupted.

    On leaving they are ignored, whatever happened: what follows keeps the reports there are.
    """
    try:
        for number, handler in before.items():
            signal.signal(number, handler)
        yield
    finally:
        hear_no_more()


def hear_no_more() -> None:
    """Ignore the signals: what is left to do is short, and must not be cut off."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stopping(
    stop: threading.Event,
    renderer: Renderer,
    at_first: Callable[[], None] = lambda: None,
    at_once: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Within, the first SIGINT, SIGTERM or SIGHUP sets ``stop`` and says so; nothing is raised.

    The second one ends the process at once, naming what ``renderer`` knows to be unfinished. That is safe: a
    card that is being written has no partition table until it has been read back. Once the cards have ended,
    no signal is heard any more: what is left to do is the report, which says what state each card is in. Who
    has more to do after that does it within ``heard``. A signal that is ignored from outside, as SIGHUP under
    nohup, stays so. ``at_first`` is called at the first signal, ``at_once`` before the process ends at once.
    """
    asked = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            _end_at_once(renderer, at_once)
        asked = True
        stop.set()
        at_first()
        renderer.stopping = True
        renderer.emit(Message("info", "stopping after this block; once more to stop at once"))

    try:
        for number, handler in handlers().items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, hear)
        yield
    finally:
        hear_no_more()


def _end_at_once(renderer: Renderer, at_once: Callable[[], None]) -> None:
    try:
        at_once()
        names = printable(", ".join(" ".join(title.split()) for title in renderer.unfinished()), None)
        renderer.last_words(f"piimg: stopped at once; not finished: {names or 'none'}")
    finally:
        os._exit(INTERRUPTED)
