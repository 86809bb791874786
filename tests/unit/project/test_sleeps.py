"""Tests wait for conditions: a fixed sleep of a second or more has a reason."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.checkout import TOP

LONG = 1.0  # second

REASONS = {
    "integration/boot/test_frame_filter.py": ["the processor's time is measured over 5 s"],
    "integration/card/test_station.py": [
        "nothing is written to a card that was there before",
        "nothing is written without an answer",
        "nothing is written before its turn",
        "nothing is written to a card that was mounted",
    ],
    "integration/card/test_station_alone.py": [
        "the station has seen the card that was there before",
        "nothing is written to the card that came back",
        "nothing is written in the slot of another station",
        "nothing is written to a card that was cut off",
    ],
    "integration/card/test_station_web.py": [
        "nothing is written by an answer about another card",
        "nothing is written by an answer where no page may give one",
    ],
    "integration/cli/test_web_last_page.py": ["the buffers of a viewer that never reads become full"],
    "integration/overlays/test_gateway.py": ["longer than a tick of the service: nothing may change in one"],
    "system/browser/web/test_station.py": ["nothing is written by an answer about another card"],
    "system/cluster/test_others.py": [
        "what passes is counted over 4 s",
        "the kernel looks for connections that have ended once a second",
        "the kernel looks for connections that have ended once a second",
        "longer than a tick of the service: nothing may change in one",
    ],
    "system/gateway/test_master.py": ["the clock goes on without its source for 3 s"],
    "system/gateway/test_orders.py": ["what is promised within a second is looked at after a second"] * 3,
    "system/gateway/test_speed.py": [
        "the service comes to rest",
        "its context switches are counted over 5 s",
    ],
    "system/station/test_changes.py": ["nothing is asked about a card that is too small"],
}
"""The fixed waits of a second or more that remain, by file: nothing happens that could be waited for."""


def sleeps(source: str) -> Iterator[float]:
    """The seconds of each wait of at least ``LONG``: a number, or a constant of the module."""
    tree = ast.parse(source)
    constants = {
        ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("sleep", "settle"):
            seconds = constants.get(ast.unparse(node.args[0]), node.args[0]) if node.args else None
            if isinstance(seconds, ast.Constant) and float(str(seconds.value)) >= LONG:
                yield float(str(seconds.value))


def test_every_long_sleep_has_a_reason() -> None:
    files = (TOP / "tests").rglob("*.py")
    found = Counter(
        {_name(file): count for file in files if (count := len(list(sleeps(file.read_text("utf-8")))))}
    )
    assert found == {file: len(reasons) for file, reasons in REASONS.items()}


def _name(file: Path) -> str:
    return str(file.relative_to(TOP / "tests"))


def test_long_sleeps_are_found() -> None:
    source = (
        "import time\nN = 3\ntime.sleep(2)\nsleep(1.0)\nsleep(0.5)\nsleep(left)\nsleep(N)\nwindow.settle(4)\n"
    )
    assert sorted(sleeps(source)) == [1.0, 2.0, 3.0, 4.0]
