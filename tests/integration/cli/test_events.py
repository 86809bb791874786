"""docs/schema against the program: every line of a real build and a real flash, and the report."""

import json
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.card.report import CardReport, Verdict, document
from imagebuilder.events import Advanced, Finished, Message, Started
from imagebuilder.system import loop
from tests.support.checkout import TOP
from tests.support.cluster import make_place
from tests.support.events import EVENTS, events, not_ended, outcomes, read, schema

CARD = 2 * 10**9  # bytes


REPORT = schema("report")


def tasks(some: list[dict[str, Any]], subject: str) -> list[str]:
    return [one["task"] for one in some if one["event"] == "started" and one["subject"] == subject]


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
def test_a_real_build_and_a_real_flash(specimen: Callable[[str], Path], tmp_path: Path) -> None:
    place = make_place(tmp_path, tmp_path / "cache")
    base = specimen("trixie")
    nodes = ("worker1", "worker2")
    chosen = [word for node in nodes for word in ("--node", node)]
    built = place.run("--progress", "json", "build", *chosen, "--base", base)
    assert built.returncode == 0, built.stderr
    emitted = events(built.stderr.splitlines())
    assert not_ended(emitted) == []
    for node in nodes:
        expected = ("prepare", "copy", "inject", "check", "map", "build")
        assert tasks(emitted, node) == list(expected)
        assert outcomes(emitted, node) == dict.fromkeys(expected, True)
    assert any(one["event"] == "message" for one in emitted)

    image = place.build / "worker1.img"
    files = [tmp_path / "a", tmp_path / "b"]
    with ExitStack() as stack:
        for file in files:
            file.touch()
            os.truncate(file, CARD)
        cards = [stack.enter_context(loop.attached(file, direct_io=True)) for file in files]
        words = ("--image", image, "--virtual", "--yes", "--json", "--report", tmp_path / "report.json")
        for more in ((), ("--no-verify", "--full"), ()):  # new, not verified, nothing to write
            done = place.run("--progress", "json", "flash", *cards, *words, *more)
            assert done.returncode == 0, done.stderr
            REPORT.validate(json.loads(done.stdout))
            REPORT.validate(json.loads((tmp_path / "report.json").read_text()))
            emitted = events(done.stderr.splitlines())
            assert not_ended(emitted) == []
            for card in cards:
                of_card = [one for one in emitted if one["subject"] == str(card)]
                assert {one["event"] for one in of_card} == {"started", "advanced", "finished"}
                assert any(one.get("rate") is not None for one in of_card)
                assert any(one.get("left") is not None for one in of_card)
        with cards[0].open("r+b") as stream:
            stream.write(bytes(512))
        bad = place.run("--progress", "json", "verify", cards[0], "--image", image, "--json")
        assert bad.returncode == 3, bad.stderr
        REPORT.validate(json.loads(bad.stdout))
        assert json.loads(bad.stdout)["cards"][0]["verdict"] == "bad"


def test_the_schemas_can_find_fault() -> None:
    event = {"event": "advanced", "time": 1.5, "task": "write", "subject": "/dev/sdb", "done": 1, "total": 2}
    event |= {"rate": None, "left": 3.5}
    assert EVENTS.is_valid(event)
    assert not EVENTS.is_valid({key: value for key, value in event.items() if key != "left"})
    changes: list[dict[str, object]]
    changes = [{"task": "juggle"}, {"done": -1}, {"rate": "fast"}, {"more": 1}, {"event": "begun"}]
    assert not [change for change in changes if EVENTS.is_valid(event | change)]

    good = CardReport(
        "/dev/sdb", "usb 1-1", "", "", 9, "n", "n.img", Verdict.GOOD, rates=((1.0, "write", 5),)
    )
    assert REPORT.is_valid(report(good))
    assert REPORT.is_valid(report(replace(good, verdict=Verdict.BAD, error="it is bad", offset=5)))
    changes = [
        {"verdict": "fine"},
        {"offset": 5},
        {"rates": [[1, "write"]]},
        {"verdict": "bad"},
        {"way": "so"},
    ]
    assert not [change for change in changes if REPORT.is_valid(report(good, **change))]


def report(card: CardReport, **change: object) -> object:
    whole = document([card])
    (data,) = json.loads(json.dumps(whole["cards"]))
    return json.loads(json.dumps(whole | {"cards": [data | change]}))


def test_the_schema_has_every_task_of_the_page() -> None:
    table = (TOP / "docs" / "events.md").read_text().partition("| task |")[2].partition("\n\n")[0]
    first = [line.split("|")[1:4:2] for line in table.splitlines()[2:]]  # tasks, and what is done
    named = {name for tasks, _ in first for name in re.findall(r"`([a-z-]+)`", tasks)}
    named |= {"copy", "inject", "map"}  # the page names them beside prepare,
    named |= {"packages", "install", "scripts", "tidy"}  # and these beside dress
    for shape in read("events")["oneOf"]:
        if "task" in shape["properties"]:
            assert set(shape["properties"]["task"]["enum"]) == named


def test_the_schemas_have_every_field() -> None:
    card = read("report")["$defs"]["card"]["properties"]
    assert set(card) == {field.name for field in fields(CardReport)} - {"problem"}
    shapes = {one["properties"]["event"]["const"]: one["properties"] for one in read("events")["oneOf"]}
    for kind in (Started, Advanced, Finished, Message):
        assert set(shapes[kind.__name__.lower()]) - {"event", "time"} == {
            field.name for field in fields(kind)
        }
