"""A wish to stop while cards are written: asked once, each card ends well; twice, it ends at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from imagebuilder.cli.progress import Renderer
from imagebuilder.events import Message

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130  # exit code


@contextmanager
def stopping(stop: threading.Event, renderer: Renderer) -> Iterator[None]:
    """Within, the first SIGINT, SIGTERM or SIGHUP sets ``stop`` and says so; nothing is raised.

    The second one ends the process at once, naming what ``renderer`` knows to be unfinished. That is safe: a
    card that is being written has no partition table until it has been read back. After a wish to stop, and
    once the cards have ended, no signal is heard any more: what is left to do is the report, which says what
    state each card is in. A signal that is ignored from outside, as SIGHUP under nohup, stays so.
    """
    asked = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            _end_at_once(renderer)
        asked = True
        stop.set()
        renderer.stopping = True
        renderer.emit(Message("info", "stopping after this block; once more to stop at once"))

    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, hear)
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_IGN if asked else before[number])


def _end_at_once(renderer: Renderer) -> None:
    try:
        names = ", ".join(" ".join(title.split()) for title in renderer.unfinished())
        renderer.last_words(f"piimg: stopped at once; not finished: {names or 'none'}")
    finally:
        os._exit(INTERRUPTED)
