"""What a browser gets: hostile text stays text, and only what has changed is sent."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest

from imagebuilder.cli.web.feed import line_of
from imagebuilder.cli.web.page import Page
from imagebuilder.cli.web.parts import NAMES, Parts
from imagebuilder.cli.web.slot_order import hubs
from imagebuilder.cli.web.state import Action, HistoryRow, NodeState, Question, Shown, Start, Tile, Work

HOSTILE = (
    """</title></script><script>alert(1)</script><img src=x onerror=alert(1)>"'><b class=hostile>"""
    """{{ 7*7 }}{% raw %}&lt;javascript:alert(1)"""
)


def shown(**changes: Any) -> Shown:
    made = Shown("run", "station", "picluster", (Action("wait", "Waiting for cards"),))
    return replace(made, **changes)


def rich(text: str, state: str = "writing", answers: tuple[str, ...] = ("y", "n")) -> Shown:
    """All that a page can show, with ``text`` wherever a name from outside may be."""
    tile = Tile(text, state, text, text, text, text, 50, text, text, (10, 100, 50), text, text, text)
    return Shown(
        run="run",
        command=text,
        cluster=text,
        actions=tuple(Action(kind, text, text) for kind in ("question", "out", "in", "aside", "left") * 3),
        question=Question(text, (text, text), answers, 7),
        done=1,
        count=3,
        percent=40,
        busy=2,
        rate=text,
        left=text,
        tiles=(tile,),
        work=(Work(text, text, None, text), Work(text, text, 10, text)),
        nodes=(NodeState(text, text, text, text, "done", text),),
        history=(HistoryRow(text, text, text, text, text, text),),
        messages=(text,),
        ended=True,
    )


class Markup(HTMLParser):
    """The elements and attributes of a page, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(state: Shown) -> bytes:
    parts = Parts()
    parts.update(json.loads(json.dumps(asdict(state))))
    return parts.page()


@pytest.mark.parametrize("state", ["writing", "done", "failed", "refused", "<b>"])
@pytest.mark.parametrize("answers", [("y", "n"), ("yes",), (HOSTILE, "none"), ()])
def test_hostile_text_is_never_markup(state: str, answers: tuple[str, ...]) -> None:
    """The elements and attributes are those of a page with harmless text, for every field."""
    harmless = tuple("x" if answer == HOSTILE else answer for answer in answers)
    good, bad = page_of(rich("x", state, harmless)), page_of(rich(HOSTILE, state, answers))
    assert Markup(bad).tags == Markup(good).tags
    assert b"<b class=hostile" not in bad and b"<script>" not in bad and b"49" not in bad
    assert Markup(bad).words.count(HOSTILE) >= 20


def test_the_example_has_every_field() -> None:
    """The test above must not forget a field that is added."""

    def empty(value: Any, name: str) -> Iterator[str]:
        for field in fields(value):
            inside = getattr(value, field.name)
            if inside in ("", (), None, 0):
                yield f"{name}.{field.name}"
            for one in inside if isinstance(inside, tuple) else (inside,):
                if is_dataclass(one):
                    yield from empty(one, f"{name}.{field.name}")

    assert set(empty(rich("x"), "shown")) == {"shown.work.percent"}


def test_no_failed_card_is_cut_off_the_list() -> None:
    failed = [Action("aside", f"Take out usb {number}") for number in range(9)]
    good = [Action("out", f"Take out mmc {number}") for number in range(20)]
    text = page_of(shown(actions=(*failed, *good))).decode()
    assert all(one.title in text for one in failed) and "mmc" not in text and "and 20 more" in text
    text = page_of(shown(actions=(*failed[:2], *good))).decode()
    assert "mmc 4" in text and "mmc 5" not in text and "and 15 more" in text


def test_a_question_without_details_has_no_box() -> None:
    """At the terminal, and without a card."""
    assert 'class="question"' not in page_of(shown(question=Question("Start?"))).decode()
    text = page_of(shown(question=Question("Erase this card?", ("usb 1-1.2, for worker1",)))).decode()
    assert 'class="question"' in text and "usb 1-1.2, for worker1" in text


def test_the_time_left_is_there_once() -> None:
    waiting = shown(actions=(Action("wait", "2 cards are being written", "0:03 left"),))
    for count in (0, 6):
        text = page_of(replace(waiting, busy=2, count=count, left="0:03")).decode()
        assert text.count("0:03") == 1
        text = page_of(shown(busy=2, count=count, left="0:03")).decode()
        assert text.count("0:03") == 1


def test_the_bar_shows_what_is_written() -> None:
    assert '<progress max="100" value="40"' in page_of(shown(count=6, percent=40)).decode()


def test_what_controls_a_screen_or_hides_text_is_replaced() -> None:
    """Names of cards also reach the page as they are: bidirectional controls, zero-width characters."""
    page = Page(Start("run", "station", "a\u202eb\x1b[31mc\u200bd"))
    line = line_of(page).decode()
    assert json.loads(line)["cluster"] == "a?b?[31mc?d" and line.count("\n") == 1


def test_a_part_that_has_not_changed_is_not_sent_again() -> None:
    parts, state = Parts(), asdict(rich("x"))
    parts.update(json.loads(json.dumps(state)))
    first = parts.version
    assert set(_event(parts.since(0))["parts"]) == set(NAMES)
    parts.update(json.loads(json.dumps(state)))
    assert parts.version == first
    state["messages"] = ["another"]
    parts.update(json.loads(json.dumps(state)))
    event = _event(parts.since(first))
    assert set(event["parts"]) == {"messages"} and "another" in event["parts"]["messages"]
    assert set(_event(parts.since(0))["parts"]) == set(NAMES)  # a viewer that missed versions


def test_the_version_of_a_viewer() -> None:
    parts = Parts()
    parts.update(json.loads(json.dumps(asdict(shown()))))
    assert parts.version_of("run-1") == 1
    for mark in ("", "run-", "run-x", "other-1", "run-²", f"run-{'9' * 5000}", "run--1", "1"):
        assert parts.version_of(mark) in (0, 1)
    assert parts.version_of("run-99") == 1  # not of the future
    assert parts.version_of("other-1") == 0


def test_viewers_wait_for_what_is_new() -> None:
    async def play() -> list[bool]:
        parts = Parts()
        waiting = [asyncio.create_task(parts.newer(0, 5)) for _ in range(3)]
        await asyncio.sleep(0)
        parts.update(json.loads(json.dumps(asdict(shown()))))
        got = [await one for one in waiting]
        got.append(await parts.newer(1, 0.01))
        later = asyncio.create_task(parts.newer(1, 5))
        await asyncio.sleep(0)
        parts.close()
        return [*got, await later]

    assert asyncio.run(play()) == [True, True, True, False, False]


def test_the_bench() -> None:
    names = ("mmc 0", "usb 1-1.1", "usb 1-1.2", "usb 1-2.1", "usb 2-3", "loop7")
    found = hubs([{"slot": name} for name in names])
    assert [(hub["name"], [tile["port"] for tile in hub["tiles"]]) for hub in found] == [
        ("", ["", ""]),
        ("usb 1-1", ["1", "2"]),
        ("usb 1-2", ["1"]),
        ("usb 2", ["3"]),
    ]


def _event(data: bytes) -> Any:
    head, line, *rest = data.decode().split("\n")
    assert head.startswith("id: ") and rest == ["", ""]
    return json.loads(line.removeprefix("data: "))
