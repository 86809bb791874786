"""The page in a real browser: how it looks, that it is safe, and that it changes as things happen."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.cli.progress.base import ALL, QUESTION
from imagebuilder.cli.web.feed import new_token
from imagebuilder.cli.web.page import Page
from imagebuilder.cli.web.parts import REFRESH
from imagebuilder.cli.web.state import HistoryRow, NodeState, Shown, Start
from imagebuilder.events import Advanced, Message, Started
from tests.integration.cli.test_web_page import Served, served
from tests.support.checkout import TOP
from tests.support.waiting import wait_until
from tests.system.browser.web.conftest import MakeViewer, Viewer
from tests.unit.cli.web.test_parts import HOSTILE

pytestmark = pytest.mark.browser

WIDTHS = (360, 768, 1280)
SHOTS = TOP / ".cache" / "web"

CONTRAST = (Path(__file__).with_name("contrast.js")).read_text()
OVERFLOW = (Path(__file__).with_name("overflow.js")).read_text()
"""Functions for the browser: what cannot be read well, and what does not fit; both give a list of texts."""


def url(one: Served) -> str:
    return f"http://127.0.0.1:{one.client.port}/{one.client.token}{'/' if one.client.token else ''}"


def slot(page: Page, name: str, state: str, text: str, node: str = "") -> None:
    data: Mapping[str, object] = {"slot": name, "state": state, "node": node, "device": "/dev/sdb"}
    page.note(name, name, text, data)


def every_state(page: Page, suffix: str = "", busy: bool = True) -> None:
    """A bench with a slot in each state."""
    page._start = Start(
        "run", "station", f"picluster{suffix}",
        tuple(
            NodeState(f"worker{n}{suffix}", "worker", "Raspberry Pi 3 Model B+", f"10.0.0.{n}")
            for n in range(1, 9)
        ),
        control=True,
    )  # fmt: skip
    page.goals([f"worker{number}{suffix}" for number in range(1, 9)])
    node = [f"worker{number}{suffix}" for number in range(9)]
    slot(page, "usb 1-1.1", "done", f"good: take it out, and label it {node[1]}", node[1])
    slot(
        page,
        "usb 1-1.2",
        "failed",
        "bad: take it out; wrong data at byte 123456789 after 3 attempts",
        node[2],
    )
    slot(page, "usb 1-1.3", "asking", "asking: it holds an ext4 file system", node[3])
    slot(page, "usb 1-1.4", "empty", "put in a card")
    slot(
        page, "usb 1-2.1", "refused", "left alone: it is in use: /dev/sdc1 is mounted at /media: take it out"
    )
    slot(page, "usb 1-2.2", "present", "left alone: it was here before the station started: take it out")
    slot(page, "usb 1-2.3", "spare", "not needed unless another card fails")
    slot(page, "usb 1-2.4", "examining", "examining the card")
    slot(page, "mmc 0", "waiting", "waiting for its turn", node[4])
    for port in (5, 6) if busy else ():
        device, name = f"/dev/sd{port}", f"usb 1-1.{port}"
        page.expect(device, 10**9, name, name, {"slot": name, "node": node[port]})
        page.emit(Started("flash", device))
        for step in range(6):
            page.emit(Advanced("write", device, step * 10**8, 10**9, (1 + step % 3) * 6.5e6, 84.0 - step))
            page._rates[name].extend([(0.0, 1e7 * (1 + step % 3))])
    page.emit(Message("warning", "usb 1-1 is a USB 2 hub: 25 to 40 MB/s in all"))
    page._history.append(HistoryRow("2026-11-30 12:00", node[7], "usb 1-1.2, 31.9 GB", "good", "3:12"))
    page._history.append(
        HistoryRow("2026-11-30 11:00", node[8], "usb 1-1.3, 31.9 GB", "bad", "1:12", "wrong data at byte 99")
    )
    page.note(ALL, "", "", {"next": node[8]})


def question(page: Page, ticket: int = 7, answers: tuple[str, ...] = ("y", "n"), suffix: str = "") -> None:
    data = {
        "asks": f"Erase /dev/sdb (usb 1-1.3) for worker3{suffix}?",
        "answers": list(answers),
        "about": [
            f"31.9 GB, Generic Reader, serial 1234{suffix}",
            "usb 1-1.3: it holds an ext4 file system at byte 0",
        ],
        "ticket": ticket,
    }
    page.note(QUESTION, "", "Erase? [y/N]", data)


def answered(one: Served) -> list[tuple[int, str]]:
    """The answers that come."""
    found: list[tuple[int, str]] = []

    def some() -> bool:
        found.extend(one.answers.take())
        return bool(found)

    wait_until(some, 10, lambda: "no answer")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_can_be_read(viewer: MakeViewer, width: int, scheme: str) -> None:
    with served(control=True) as one:
        every_state(one.page)
        for name, answers in (
            ("yes-no", ("y", "n")),
            ("yes", ("yes",)),
            ("node", ("worker7", "none")),
            ("none", None),
        ):
            one.page.note(QUESTION, "", "", {})
            if answers:
                question(one.page, answers=answers)
            seen = viewer(url(one), viewport={"width": width, "height": 900}, color_scheme=scheme)
            seen.see("h1", "Take out usb 1-1.2" if answers is None else "Erase /dev/sdb")
            assert seen.page.evaluate(OVERFLOW) == []
            assert seen.page.evaluate(CONTRAST) == []
            SHOTS.mkdir(parents=True, exist_ok=True)
            seen.page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png", full_page=True)
            assert seen.wrong == []


def test_long_names_fit(viewer: MakeViewer) -> None:
    with served(control=True) as one:
        every_state(one.page, "-" + "a" * 63)
        question(one.page, suffix="-" + "m" * 300)
        for width in WIDTHS:
            seen = viewer(url(one), viewport={"width": width, "height": 900})
            assert seen.page.evaluate(OVERFLOW) == []


def test_the_checks_can_fail(viewer: MakeViewer) -> None:
    with served() as one:
        seen = viewer(url(one), viewport={"width": 360, "height": 900}, bypass_csp=True)
        seen.page.add_style_tag(
            content=".name { color: #999 !important; background: #aaa; } .command { min-width: 500px; }"
        )
        assert any("name" in text for text in seen.page.evaluate(CONTRAST))
        assert any("command" in text for text in seen.page.evaluate(OVERFLOW))


def test_the_type_is_large(viewer: MakeViewer) -> None:
    """What to do can be read across a room: 1 degree of a phone's width."""
    with served() as one:
        every_state(one.page)
        for width, least in ((360, 32), (768, 56), (1280, 90)):
            seen = viewer(url(one), viewport={"width": width, "height": 800})
            size = seen.page.evaluate("parseFloat(getComputedStyle(document.querySelector('h1')).fontSize)")
            assert size >= least


def test_first_paint(viewer: MakeViewer) -> None:
    with served() as one:
        every_state(one.page)
        viewer(url(one))  # the browser itself is warm
        took = []
        for _ in range(3):
            seen = viewer(url(one))
            paint = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            seen.until(paint)
            took.append(seen.page.evaluate(paint))
        assert min(took) < 500, took


def test_it_asks_for_nothing_elsewhere(viewer: MakeViewer) -> None:
    with served(new_token()) as one:
        every_state(one.page)
        seen = viewer(url(one))
        seen.see("h1", "Take out")
        assert len(seen.asked) >= 4 and all(text.startswith(url(one)) for text in seen.asked)
        assert seen.wrong == []


def test_hostile_names_do_nothing(viewer: MakeViewer) -> None:
    """In the first page, in what is sent later, and in the title."""
    with served(control=True) as one:
        every_state(one.page, HOSTILE)
        seen = viewer(url(one))
        seen.see(".node", "worker5<")
        question(one.page, suffix=HOSTILE)
        one.page.emit(Message("warning", HOSTILE))
        seen.see("h1", "Erase /dev/sdb (usb 1-1.3) for worker3<")
        assert seen.page.locator(".hostile, main img, main script").count() == 0
        assert seen.wrong == [] and len(seen.asked) == len(set(seen.asked))


def test_an_inline_script_would_not_run(viewer: MakeViewer) -> None:
    """Even if there was one: the policy of the page forbids it."""
    with served() as one:
        seen = viewer(url(one))
        seen.page.evaluate(
            "() => { const made = document.createElement('script'); made.textContent = 'window.ran = 1';"
            " document.body.append(made); }"
        )
        assert seen.page.evaluate("window.ran") is None
        assert "Content Security Policy" in " ".join(seen.wrong)


def test_it_changes_without_a_reload(viewer: MakeViewer) -> None:
    with served() as one:
        seen = viewer(url(one))
        seen.page.evaluate("window.same = 1")
        slot(one.page, "usb 1-1.1", "done", "good: take it out, and label it worker3", "worker3")
        seen.see("h1", "Take out usb 1-1.1", 5)
        seen.see(".hero p", "It is good. Label it worker3.")
        assert seen.page.title().startswith("Take out usb 1-1.1")
        for number in range(30):
            slot(one.page, f"usb 1-1.{number}", "empty", "put in a card")
        seen.until("document.querySelectorAll('.tile').length === 30")
        for number in range(2, 30):
            one.page.note(f"usb 1-1.{number}", "", "", {})
        seen.until("document.querySelectorAll('.tile').length === 2")
        assert seen.page.evaluate("window.same") == 1 and seen.wrong == []


def test_the_changed_page_is_the_page(viewer: MakeViewer) -> None:
    """What the script makes of the changes is what a new viewer gets."""
    with served(control=True) as one:
        early = viewer(url(one))
        slot(one.page, "usb 1-1.9", "empty", "put in a card")
        early.see(".tile", "usb 1-1.9")
        every_state(one.page, busy=False)  # without what changes by itself
        question(one.page)
        early.see("h1", "Erase")
        one.page.note(QUESTION, "", "", {})
        early.see("h1", "Take out")
        late = viewer(url(one))
        plain = "document.querySelector('main').innerHTML.replace(/\\s+/g, ' ').replace(/> </g, '><')"
        assert early.page.evaluate(plain) == late.page.evaluate(plain)


def test_without_javascript_it_reloads(viewer: MakeViewer) -> None:
    with served() as one:
        seen = viewer(url(one), java_script_enabled=False)
        seen.see(".tile", "put in a card")
        slot(one.page, "usb 1-1.1", "done", "good: take it out, and label it worker3", "worker3")
        seen.see("h1", "Take out usb 1-1.1", 10)
        slot(one.page, "usb 1-1.1", "empty", "put in a card")
        seen.see(".tile", "put in a card", 10)


def test_without_javascript_the_last_page_stays(viewer: MakeViewer) -> None:
    """It does not reload when the server is gone, and has its style sheet."""
    with served() as one:
        seen = viewer(url(one), java_script_enabled=False)
        seen.see(".tile", "put in a card")
        late = viewer(url(one))
    time.sleep(REFRESH + 2)
    for each in (seen, late):
        each.see("h1", "piimg station has ended")
        box = each.page.locator(".hero").bounding_box()
        assert box["x"] > 8  # the style sheet is there


def test_without_javascript_it_can_be_answered(viewer: MakeViewer) -> None:
    with served(new_token(), control=True) as one:
        question(one.page)
        seen = viewer(url(one), java_script_enabled=False)
        seen.page.get_by_role("button", name="Yes, erase this card").click()
        seen.page.wait_for_url(url(one))
        assert answered(one) == [(7, "y")]


def test_a_click_meant_for_another_card_is_not_taken(viewer: MakeViewer) -> None:
    """A question that takes the place of another cannot be answered at once."""
    with served(new_token(), control=True) as one:
        question(one.page, 7)
        seen = viewer(url(one))
        no = seen.page.get_by_role("button", name="No, leave it alone")
        no.wait_for()
        question(one.page, 8)
        seen.until("document.querySelector('div.question').dataset.key.startsWith('8 ')")
        assert seen.page.evaluate("document.querySelector('div.question').inert") is True
        seen.until("!document.querySelector('div.question').inert")
        seen.page.get_by_role("button", name="Yes, erase this card").click()
        seen.page.wait_for_load_state()
        assert answered(one) == [(8, "y")] and seen.wrong == []


def test_what_is_typed_stays_while_the_page_changes(viewer: MakeViewer) -> None:
    with served(new_token(), control=True) as one:
        question(one.page, 7, ("yes",))
        seen = viewer(url(one))
        seen.page.locator("input[name=answer]").fill("yes")
        one.page.emit(Message("warning", "something else"))
        slot(one.page, "usb 1-1.5", "empty", "put in a card")
        seen.see(".tile", "usb 1-1.5")
        assert seen.page.locator("input[name=answer]").input_value() == "yes"
        question(one.page, 8, ("yes",))  # another card: typed again
        seen.until("document.querySelector('div.question').dataset.key.startsWith('8 ')")
        assert seen.page.locator("input[name=answer]").input_value() == ""


def test_by_keyboard(viewer: MakeViewer) -> None:
    with served(new_token(), control=True) as one:
        question(one.page)
        seen = viewer(url(one))
        seen.until("document.querySelector('button') && !document.querySelector('[inert]')")
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.textContent") == "No, leave it alone"
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_load_state()
        assert answered(one) == [(7, "n")]


def test_a_lost_connection_is_said(viewer: MakeViewer) -> None:
    with served() as one:
        seen = viewer(url(one))
        seen.see(".tile", "put in a card")
    seen.see("#lost", "piimg has ended", 10)
    assert seen.page.evaluate("document.querySelector('h1').textContent") == "piimg station has ended"


def test_what_is_shown_is_all_there_is(viewer: MakeViewer) -> None:
    """Each text of the state is somewhere on the page."""
    with served() as one:
        every_state(one.page)
        seen: Viewer = viewer(url(one))
        whole = seen.page.evaluate("document.body.textContent")
        shown: Shown = one.page.shown()
        for tile in shown.tiles:
            texts: list[Any] = [tile.slot, tile.node, tile.task, tile.rate, tile.text]
            assert all(text in whole for text in texts), json.dumps(asdict(tile))
