"""A real browser: Debian's Chromium without a window, driven by Playwright."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.waiting import wait_until

MakeViewer = Callable[..., "Viewer"]


@dataclass
class Viewer:
    """A tab in a browser of its own. ``asked`` are the URLs that it asked for, ``wrong`` its complaints."""

    page: Any
    asked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """The text of the first element that is found, as it is seen."""
        return str(self.page.locator(selector).first.inner_text())

    def see(self, selector: str, text: str, seconds: float = 30) -> None:
        """Wait until an element with this text is seen."""
        found = self.page.locator(selector).filter(has_text=text).first
        found.wait_for(state="visible", timeout=seconds * 1000)

    def complain_of_dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def complain_of_message(self, said: Any) -> None:
        if said.type in ("error", "warning"):
            self.wrong.append(said.text)

    def until(self, condition: str, seconds: float = 30) -> None:
        """Wait until an expression of JavaScript is true. The page's policy forbids what Playwright does."""
        wait_until(lambda: self.page.evaluate(condition), seconds, lambda: condition, pause=0.1)


@pytest.fixture
def viewer(browser: Any) -> Iterator[MakeViewer]:
    """``viewer(url)`` is a new viewer; options are those of a context of Playwright."""
    with ExitStack() as stack:

        def made(url: str, **options: Any) -> Viewer:
            context = browser.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            one = Viewer(page)
            page.on("request", lambda request: one.asked.append(request.url))
            page.on("pageerror", lambda error: one.wrong.append(str(error)))
            page.on("dialog", one.complain_of_dialog)
            page.on("console", one.complain_of_message)
            page.goto(url, wait_until="load")
            return one

        yield made
