"""The parts of the page as HTML. A viewer gets those that have changed since the version that it has."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from imagebuilder.cli.web.slot_order import hubs

NAMES = ("now", "bench", "nodes", "history", "messages")
"""The parts, in the order of the page; each has a template, whose element has the same id."""

REFRESH = 4  # seconds after which the page reloads itself without JavaScript

_FOLDER = Path(__file__).with_name("templates")


class Parts:
    """The rendered parts; for one event loop. ``closed``: the run is over, and no more states follow.

    Nothing is kept for a viewer but the version that it has: one that is slow misses versions in between.
    """

    def __init__(self) -> None:
        # autoescape: names from cards, manifests and histories must never become markup.
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.run = ""
        self.version = 0
        self.closed = False
        self._parts: dict[str, tuple[int, str]] = {}
        self._title = "piimg"
        self._ended = False
        self._page: bytes | None = None
        self._sent: dict[int, bytes] = {}  # by the version that a viewer has: what it gets
        self._turned = asyncio.Event()
        self._shell = self._templates.get_template("page.html")
        self._of = {name: self._templates.get_template(f"{name}.html") for name in NAMES}

    def update(self, shown: dict[str, Any]) -> None:
        """Render a state (``Shown`` as JSON); what has not changed keeps its version. Wakes the viewers."""
        self.run = shown["run"]
        shown["hubs"] = hubs(shown["tiles"])
        rendered = {name: template.render(shown) for name, template in self._of.items()}
        changed = {name: text for name, text in rendered.items() if self._parts.get(name, (0, ""))[1] != text}
        if changed:
            self.version += 1
            self._parts.update({name: (self.version, text) for name, text in changed.items()})
            self._title, self._ended = title(shown), bool(shown["ended"])
            self._page, self._sent = None, {}
            self._wake()

    def close(self) -> None:
        """No more states follow."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def newer(self, version: int, seconds: float) -> bool:
        """Wait until there is something newer than ``version``, at most so many seconds; whether there is."""
        if self.version <= version and not self.closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._turned.wait(), seconds)
        return self.version > version

    def page(self) -> bytes:
        """The whole page."""
        if self._page is None:
            parts = [self._parts[name][1] for name in NAMES if name in self._parts]
            mark = f"{self.run}-{self.version}"
            refresh = 0 if self._ended else REFRESH  # the last page stays when the server is gone
            self._page = self._shell.render(
                title=self._title, mark=mark, parts=parts, refresh=refresh
            ).encode()
        return self._page

    def since(self, version: int) -> bytes:
        """The event (Server-Sent Events) for a viewer that has ``version``: the parts that are newer."""
        if version not in self._sent:
            newer = {name: text for name, (at, text) in self._parts.items() if at > version}
            data = json.dumps({"title": self._title, "parts": newer})  # without line ends
            self._sent[version] = f"id: {self.run}-{self.version}\ndata: {data}\n\n".encode()
        return self._sent[version]

    def version_of(self, mark: str) -> int:
        """The version that a viewer has, by the id of its last event; 0 if it is of another run."""
        run, _, number = mark.rpartition("-")
        known = run == self.run and number.isascii() and number.isdigit() and len(number) < 10
        return min(int(number), self.version) if known else 0


def title(shown: dict[str, Any]) -> str:
    """The title of the browser's tab: what matters comes first."""
    first = str(shown["actions"][0]["title"]) if shown["actions"] else ""
    return " · ".join(word for word in (first, shown["cluster"], "piimg") if word)
