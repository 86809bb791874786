"""Who looks at the page: so the last page stays until each of them has it, and no longer."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Message, Scope, Send

from imagebuilder.cli.web.parts import REFRESH

_OPEN = REFRESH + 2.0  # seconds since its last request in which a viewer without JavaScript is open
_STUCK = 2.0  # seconds after which a viewer that takes no data is not waited for
_QUIET = 1.0  # seconds without a request, after which a page has its style sheet, too
_LOOK = 0.1

Key = tuple[str, str]
"""The address and the name of a browser. Several tabs can have the same one: they are counted."""


@dataclass
class Follower:
    """A viewer that follows the changes. ``since`` is when a write began that has not ended."""

    since: float | None = None

    def timed(self, send: Send) -> Send:
        """``send``, and ``since`` says how long it waits: the viewer may take no data."""

        async def sent(message: Message) -> None:
            self.since = time.monotonic()
            await send(message)
            self.since = None

        return sent


class Viewers:
    """The open viewers. With JavaScript they follow a stream; without it they ask for the page again."""

    def __init__(self) -> None:
        self._open: dict[int, Follower] = {}
        self._fetched: deque[tuple[float, Key]] = deque(maxlen=512)
        self._missing: Counter[Key] = Counter()
        self._asked: float | None = None  # the last request since the end

    def asks(self) -> None:
        """Something was asked for that belongs to the page."""
        self._asked = time.monotonic()

    def fetches(self, scope: Scope) -> None:
        """The page was asked for. Only a browser counts as a viewer."""
        self.asks()
        if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
            key = _key(scope)
            self._missing[key] -= 1
            self._fetched.append((time.monotonic(), key))

    @contextlib.contextmanager
    def following(self, scope: Scope) -> Iterator[Follower]:
        """In the block a viewer follows the changes: so it is none that asks for the page again."""
        key, stream = _key(scope), Follower()
        self._missing[key] -= 1
        for entry in self._fetched:
            if entry[1] == key:
                self._fetched.remove(entry)
                break
        self._open[id(stream)] = stream
        try:
            yield stream
        finally:
            del self._open[id(stream)]

    async def have_last(self, seconds: float) -> None:
        """The last page can be had from now on: wait until each open viewer has it, or for ``seconds``."""
        end = time.monotonic()
        self._missing = Counter(key for when, key in self._fetched if end - when <= _OPEN)
        self._asked = None
        while time.monotonic() - end < seconds and self._waits():
            await asyncio.sleep(_LOOK)

    def _waits(self) -> bool:
        now = time.monotonic()
        streams = any(one.since is None or now - one.since < _STUCK for one in self._open.values())
        quiet = self._asked is None or now - self._asked >= _QUIET
        return streams or not quiet or any(count > 0 for count in self._missing.values())


def _key(scope: Scope) -> Key:
    client = scope.get("client")
    return (client[0] if client else "", Headers(scope=scope).get("user-agent", ""))
