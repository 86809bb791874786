"""Signal handling while cards are written: the first SIGINT, SIGTERM or SIGHUP stops gracefully.

The second one exits at once. A run ends with a report, which must not be cut off: ``graceful_stop`` covers
it, too. Questions and waits run within ``GracefulStop.interruptible``. The previous handlers are restored at
the end.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from imagebuilder.cli.progress.base import Renderer
from imagebuilder.cli.stop_signals import SIGNALS
from imagebuilder.events import Message
from imagebuilder.text import printable

INTERRUPTED = 130  # exit code

_AT_WORK = "stopping after the current block; repeat to stop at once"
_AT_REPORT = "the report is being made; repeat to end without it"


class GracefulStop:
    """The signals of one run. ``graceful_stop`` makes one; its methods are for the main thread.

    One handler is installed for the whole run, and looks at what is being done when a signal arrives. So
    there is no moment, between a question and the writing for example, at which a signal meets neither.
    """

    def __init__(
        self,
        stop: threading.Event,
        renderer: Renderer,
        at_first: Callable[[], None] = lambda: None,
        at_once: Callable[[], None] = lambda: None,
        says: str = _AT_WORK,
        exits: bool = True,
    ) -> None:
        self.at_once, self._exits = at_once, exits
        self._stop, self._renderer, self._at_first, self._says = stop, renderer, at_first, says
        self._before: dict[signal.Signals, Any] = {}
        self._asked = self._interruptible = False
        self._working = True

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within the block the previous handlers are in force: a question or a wait can be interrupted.

        After it, signals stop gracefully again. Raises KeyboardInterrupt at once if a signal has set ``stop``
        already.
        """
        self._interruptible = True
        try:
            if self._stop.is_set():
                raise KeyboardInterrupt
            yield
        finally:
            self._interruptible = False
        self._working = True

    def work_ended(self) -> None:
        """From now on the report is made: two signals that stopped the work must not discard it.

        The next signal prints a message, and only the one after it exits.
        """
        self._working = self._asked = False

    def _install(self) -> None:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                self._before[number] = handler
                signal.signal(number, self._handle)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._interruptible:
            self._interrupt(signal.Signals(number), frame)
            return
        if self._asked:
            if self._exits:
                _end_at_once(self._renderer, self.at_once)
            return
        self._asked = True
        self._stop.set()
        if self._working:
            self._at_first()
        self._renderer.stopping = True
        self._renderer.emit(Message("info", self._says if self._working else _AT_REPORT))

    def _interrupt(self, number: signal.Signals, frame: FrameType | None) -> None:
        """Call the previous handler, which normally raises and so ends ``interruptible``.

        The block counts as left from here on, since the exception may come after its last line. Handlers that
        the previous handler changed are kept, and restored at the end.
        """
        self._interruptible = False
        handler = self._before[number]
        try:
            if callable(handler):
                handler(number, frame)
            else:
                signal.signal(number, handler)
                signal.raise_signal(number)
            self._interruptible = True
        finally:
            for other in self._before:
                if signal.getsignal(other) != self._handle:
                    self._before[other] = signal.getsignal(other)
                    signal.signal(other, self._handle)


@contextmanager
def graceful_stop(
    stop: threading.Event,
    renderer: Renderer,
    at_first: Callable[[], None] = lambda: None,
    at_once: Callable[[], None] = lambda: None,
    says: str = _AT_WORK,
    exits: bool = True,
) -> Iterator[GracefulStop]:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP sets ``stop`` and prints a message.

    Nothing is raised. The second one exits at once, and prints the unfinished subjects of ``renderer``. This
    is safe: a card that is being written has no partition table until it has been read back. The block covers
    a run to the end of its report; questions and waits run within ``interruptible``. A signal that was
    ignored from the start, such as SIGHUP under nohup, stays ignored. ``at_first`` is called at the first
    signal while there is work, ``at_once`` before the process exits at once; ``says`` is the message at the
    first signal. With ``exits`` False the second signal is ignored, for work that must clean up. The previous
    handlers are restored on leaving. Only for the main thread.
    """
    graceful = GracefulStop(stop, renderer, at_first, at_once, says, exits)
    try:
        graceful._install()
        yield graceful
    finally:
        graceful._restore()


def _end_at_once(renderer: Renderer, at_once: Callable[[], None]) -> None:
    try:
        at_once()
        names = printable(", ".join(" ".join(title.split()) for title in renderer.unfinished()), None)
        renderer.last_words(f"piimg: stopped at once; not finished: {names or 'none'}")
    finally:
        os._exit(INTERRUPTED)
