"""Progress as plain lines and as JSON lines, and which renderer a terminal gets."""

import io
import json
import threading
import time

import pytest

from imagebuilder.cli.progress.bars import Bars
from imagebuilder.cli.progress.choice import renderer
from imagebuilder.cli.progress.jsonlines import JsonLines
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.events import Advanced, Finished, Message, Started
from tests.support.terminal import window
from tests.unit.cli.test_bars import BODY, Clock, device


def test_plain_lines_tell_rate_and_time_left() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(stream, clock=clock) as plain:
        plain.emit(Started("write", device(0), BODY))
        for step in range(1, 8):
            clock.now += 1
            plain.emit(Advanced("write", device(0), step * 10_000_000, BODY, 1e7, 200.0))
        plain.emit(Message("warning", "hm", device(0)))
        plain.emit(Finished("write", device(0), ok=False))
    assert stream.getvalue().splitlines() == [
        "/dev/sdb: write 1.8 GB",
        "/dev/sdb: write 2 % of 1.8 GB, 10.0 MB/s, 3:20 left",
        "warning: /dev/sdb: hm",
        "/dev/sdb: write failed after 0:07",
    ]


def test_a_preparation_in_plain_lines_names_the_node_once_a_line() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(stream, clock=clock) as plain:
        plain.emit(Message("info", "address changed", "worker1"))
        plain.emit(Started("prepare", "worker1"))
        for step in ("copy", "inject", "check", "map"):
            plain.emit(Started(step, "worker1"))
            clock.now += 1
            plain.emit(Finished(step, "worker1"))
        plain.emit(Finished("prepare", "worker1"))
        plain.emit(Started("build", "worker1"))
        clock.now += 1
        plain.emit(Finished("build", "worker1"))
    assert stream.getvalue().splitlines() == [
        "worker1: address changed",
        "worker1: prepare done after 0:04",
        "worker1: build done after 0:05",
    ]


def test_json_lines_have_every_field() -> None:
    stream = io.StringIO()
    with JsonLines(stream) as lines:
        lines.emit(Advanced("write", device(0), 1, 2, 10.4, 1.26))
        lines.emit(Advanced("write", device(0), 2))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert {**first, "time": 0} == {
        "event": "advanced", "time": 0, "task": "write", "subject": device(0), "done": 1, "total": 2,
        "rate": 10, "left": 1.3,
    }  # fmt: skip
    assert (second["rate"], second["left"], second["total"]) == (None, None, None)


class Slow(io.StringIO):
    """A stream at which another thread has its turn after each write, as at a full pipe."""

    def write(self, text: str) -> int:
        written = super().write(text)
        time.sleep(0.001)
        return written


@pytest.mark.parametrize("kind", [JsonLines, Plain])
def test_lines_of_several_threads_stay_whole(kind: type[JsonLines] | type[Plain]) -> None:
    stream = Slow()
    lines = kind(stream)
    reported = [
        threading.Thread(target=lambda: [lines.say("a table") for _ in range(50)]),
        threading.Thread(target=lambda: [lines.emit(Message("info", "an event")) for _ in range(50)]),
    ]
    for thread in reported:
        thread.start()
    for thread in reported:
        thread.join()
    said = stream.getvalue().splitlines()
    assert len(said) == 100
    assert said.count("a table") == 50
    for line in said:
        assert line in ("a table", "an event") or json.loads(line)["text"] == "an event"


@pytest.mark.parametrize(
    ("term", "terminal", "mode", "kind"),
    [
        ("xterm", True, "auto", Bars),
        ("dumb", True, "auto", Plain),
        ("dumb", True, "bar", Plain),
        ("xterm", False, "auto", Plain),
        ("xterm", False, "bar", Bars),
        ("xterm", True, "plain", Plain),
        ("xterm", True, "json", JsonLines),
    ],
)
def test_the_renderer_fits_the_terminal(
    term: str, terminal: bool, mode: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    with window(80, 24) as (_, stream):
        monkeypatch.setattr("sys.stderr", stream if terminal else io.StringIO())
        assert type(renderer(mode)) is kind  # type: ignore[arg-type]
