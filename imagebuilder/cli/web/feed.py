"""The page beside a run: its process is started, fed with what is shown, and its answers are taken.

Nothing here can hold up the run: the page is fed by a thread of its own, which may wait for a process that
does not read; and when that process ends, a warning is all that happens.
"""

import contextlib
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from socket import socket
from typing import Any

from imagebuilder.cli.web.page import Page
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.system import process
from imagebuilder.text import printable

EVERY = 1.0  # seconds between two states that are sent, unless something important changes
_SOON = 0.25  # seconds after which a change is sent
LAST_PAGE = 15.0  # seconds after the run in which the last page is served at most
_LAST_WORDS = 2.0  # seconds for a thread or the process to end
_SAY = 1.0  # seconds after which it is said that the page is still served
_ANSWER = 4096  # bytes of a line of the process
_LONGEST = 400  # characters of a text on the page
_CODE = "from imagebuilder.cli.web.serve import main; main()"


@dataclass
class Answers:
    """Answers from the page, each with the ticket of the card that it is about. The oldest are dropped."""

    _given: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=16))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _wake: Callable[[], None] | None = None

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """In the block, and never after it, ``wake`` is called with each answer."""
        self._wake = wake
        try:
            yield
        finally:
            with self._lock:
                self._wake = None

    def add(self, ticket: int, answer: str) -> None:
        """An answer has come. Safe from any thread."""
        self._given.append((ticket, answer))
        with self._lock:
            if self._wake is not None:
                self._wake()

    def take(self) -> list[tuple[int, str]]:
        """The answers that came since the last call."""
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._given.popleft())
        return found


@dataclass(frozen=True)
class Serving:
    """How the page is served. ``hosts`` are the names that a browser may use for it; empty: any.

    ``token`` is what the path of a URL must begin with; empty: nothing.
    """

    token: str = ""
    hosts: tuple[str, ...] = ()
    control: bool = False


def new_token() -> str:
    """A token that cannot be guessed (128 bits)."""
    return secrets.token_urlsafe(16)


def line_of(page: Page) -> bytes:
    """What the page shows now, as a line of JSON. Every text is made printable here, whatever it is from."""
    return json.dumps(_plain(asdict(page.shown()))).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value, _LONGEST)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def fed(
    listener: socket, serving: Serving, page: Page, answers: Answers, reporter: Reporter
) -> Iterator[None]:
    """Serve ``page`` at ``listener`` during the block, by a process of its own.

    After the block its last state is served until each open viewer has it, at most ``LAST_PAGE`` seconds.
    Ctrl-C ends that at once. After an error there is less time: the error is shown only then.
    """
    with process.interpreter(_CODE, keep=(listener.fileno(),)) as child:
        assert child.stdin is not None and child.stdout is not None
        settings = {"socket": listener.fileno(), "user": _NOBODY, "last_page": LAST_PAGE, **asdict(serving)}
        feeder = _Feeder(child, page, reporter)
        feeder.send(json.dumps(settings).encode() + b"\n")
        threads = [
            threading.Thread(target=feeder.run, name="page", daemon=True),
            threading.Thread(target=_hear, args=(child, answers), name="answers", daemon=True),
        ]
        for thread in threads:
            thread.start()
        patience = LAST_PAGE + _LAST_WORDS
        try:
            yield
        except (PiimgError, KeyboardInterrupt):
            patience = _LAST_WORDS  # the error is still to be shown
            raise
        finally:
            page.end()
            feeder.closing.set()
            with contextlib.suppress(KeyboardInterrupt):  # the run is over: its result stays what it is
                threads[0].join(_LAST_WORDS)
                if not threads[0].is_alive():
                    _until_seen(child, patience, reporter)
            child.kill()
            for thread in threads:
                thread.join(_LAST_WORDS)


def _until_seen(child: process.Child, patience: float, reporter: Reporter) -> None:
    """Wait at most ``patience`` seconds until the process has shown the last state to its viewers."""
    assert child.stdin is not None
    with contextlib.suppress(OSError):
        child.stdin.close()
    if not _ended(child, _SAY) and patience > _LAST_WORDS:
        text = f"the page stays for its viewers, at most {LAST_PAGE:.0f} seconds (Ctrl-C ends it)"
        reporter.emit(Message("info", text))
    _ended(child, patience - _SAY)


def _ended(child: process.Child, seconds: float) -> bool:
    """Wait until the process has ended, at most so many seconds; whether it has."""
    with contextlib.suppress(Exception):  # too late
        child.wait(seconds)
        return True
    return False


_NOBODY = 65534  # the number of the user nobody, and of its group, on Debian


class _Feeder:
    """Sends the states of the page to the process."""

    def __init__(self, child: process.Child, page: Page, reporter: Reporter) -> None:
        self.closing = threading.Event()
        self._child, self._page, self._reporter = child, page, reporter
        self._gone = False

    def send(self, line: bytes) -> None:
        """Send a line; it may wait. When the process has ended, a warning is shown once."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
        except (OSError, ValueError):
            if not self._gone and not self.closing.is_set():
                self._reporter.emit(Message("warning", "the page has ended; everything else goes on"))
            self._gone = True

    def run(self) -> None:
        """Send each state that differs from the last one, until ``closing`` is set; then the last one."""
        sent, due = b"", 0.0
        while not self._gone:
            last = self.closing.is_set()
            now = time.monotonic()
            if last or self._page.changed or now >= due:
                self._page.changed, due = False, now + EVERY
                line = line_of(self._page)
                if line != sent:
                    self.send(line)
                    sent = line
            if last:
                return
            self.closing.wait(_SOON)


def _hear(child: process.Child, answers: Answers) -> None:
    """Take the answers of the process, until it ends. A line that is no answer is ignored."""
    assert child.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        while line := child.stdout.readline(_ANSWER):
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                document = json.loads(line)
                answers.add(int(document["ticket"]), str(document["answer"]))
