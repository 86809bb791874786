"""A page in Chromium, with nothing but files: every other request is refused and noted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

CHROMIUM = "/usr/bin/chromium"

Scheme = Literal["light", "dark"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def shown(browser: Browser, file: Path, width: int, scheme: Scheme = "light") -> Iterator[Page]:
    """``file`` in a window of ``width`` pixels. Fails on any request but for the file, and on any error."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    problems: list[str] = []

    def seen(route: Route) -> None:
        requests.append(route.request.url)
        route.continue_()

    context.route("**/*", seen)
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.goto(file.as_uri())
    yield page
    assert requests == [file.as_uri()]
    assert problems == []
    context.close()


def overflowing(page: Page) -> list[str]:
    """What reaches beyond the right edge of the window, and whether the page can be scrolled sideways."""
    found: list[str] = page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            const beyond = [...document.querySelectorAll("body *")].filter(
                one => !one.closest("svg svg, svg *") && one.getBoundingClientRect().right > width + 0.5);
            const names = beyond.map(one => `${one.tagName}.${one.className.baseVal ?? one.className}`);
            if (document.documentElement.scrollWidth > width) names.push("the page");
            return names;
        }"""
    )
    return found


def cut_texts(page: Page, selector: str) -> list[str]:
    """The elements whose content is larger than they are."""
    found: list[str] = page.evaluate(
        """selector => [...document.querySelectorAll(selector)]
            .filter(one => one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1)
            .map(one => one.innerText)""",
        selector,
    )
    return found


def outside_their_picture(page: Page) -> list[str]:
    """The texts in drawings that reach beyond their drawing, or beyond the box that they are in."""
    found: list[str] = page.evaluate(
        """() => {
            const bad = [];
            for (const svg of document.querySelectorAll("svg")) {
                const frame = svg.getBoundingClientRect();
                if (!frame.width) continue;
                for (const text of svg.querySelectorAll("text")) {
                    const box = text.parentNode.querySelector(":scope > rect");
                    const limits = text.parentNode.tagName === "g" ? box.getBoundingClientRect() : frame;
                    const own = text.getBoundingClientRect();
                    const beyond = own.left < limits.left - 1 || own.right > limits.right + 1
                        || own.top < limits.top - 2 || own.bottom > limits.bottom + 2;
                    if (beyond) bad.push(text.textContent);
                }
            }
            return bad;
        }"""
    )
    return found
