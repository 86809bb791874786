"""The scenario of the page that shows the cards: how soon a browser paints it while cards are written."""

import contextlib
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from bench.cards import rig
from bench.context import Bench, Failed, free_port, piimg
from bench.flashing import flashed
from bench.images import NODES, SMALL, warm
from bench.measure import Words
from bench.throttle import Speed

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CARDS = 12
SPEED = Speed(20, 80)
LOADS = 5  # of the page, each in a browser without a cache; the median is reported
_MOST = 0.5  # seconds
_STARTS = 20.0  # seconds for the page to come up
_CHROMIUM = Path("/usr/bin/chromium")
_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def page(bench: Bench) -> None:
    """The first paint of the page in Chromium, on loopback, while twelve new cards are written."""
    if not _CHROMIUM.exists():
        raise Failed("Chromium is not installed: scripts/debian-packages-browser names the package")
    made = bench.images(SMALL)
    image = made.built / f"{NODES[1]}.img"
    warm(image)
    port = free_port()
    with rig(bench.cards, [SPEED] * CARDS) as cards, _painting(port) as painted:
        words: Words = ["flash", "--image", image, "--virtual", "--yes", "--report", bench.work / "report"]
        command = piimg(made, *words, f"--web=127.0.0.1:{port}", *cards.devices)
        flashed(bench, made, cards, "page", command)
    took = painted.result()
    note = f"{min(took):.2f} to {max(took):.2f} s"
    bench.aim(f"first paint of the page, {CARDS} cards", "s", None, statistics.median(took), _MOST, note)


@contextlib.contextmanager
def _painting(port: int) -> Iterator[Future[list[float]]]:
    ended = Event()
    with ThreadPoolExecutor(1) as pool:
        painted = pool.submit(_paint, port, ended)
        try:
            yield painted
        finally:
            ended.set()


def _paint(port: int, ended: Event) -> list[float]:
    """Seconds until the first paint of each load. Raises Failed when ``ended`` is set before the last."""
    # Imported here: what is measured is forked from this process, and has at least its memory (measure.py).
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        took = [_first_paint(browser, f"http://127.0.0.1:{port}/") for _ in range(LOADS + 1)]
        browser.close()
    if ended.is_set():
        raise Failed("the cards were written before the page was painted")
    return took[1:]  # the first load warms the browser itself


def _first_paint(browser: "Browser", url: str) -> float:
    """Seconds until the first paint of a page, in a browser without a cache. Waits for the server."""
    from playwright.sync_api import Error

    with browser.new_context() as context:
        shown = context.new_page()
        deadline = time.monotonic() + _STARTS
        while True:
            try:
                shown.goto(url, wait_until="load")
                break
            except Error as error:
                if time.monotonic() > deadline:
                    raise Failed(f"the page cannot be loaded: {error.message}") from error
                time.sleep(0.1)
        while (at := shown.evaluate(_PAINT)) is None:
            if time.monotonic() > deadline:
                raise Failed("the page was not painted")
            time.sleep(0.05)
        return float(at) / 1000
