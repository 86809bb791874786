"""Tests wait for conditions: a fixed sleep of a second or more has a reason."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.checkout import TOP

LONG = 1.0  # second

REASONS = {
    "integration/boot/test_frame_filter.py": ["the processor's time is measured over 5 s"],
    "integration/overlays/test_gateway.py": ["longer than a tick of the service: nothing may change in one"],
    "system/cluster/test_others.py": ["longer than a tick of the service: nothing may change in one"],
    "system/gateway/test_master.py": ["the clock goes on without its source for 3 s"],
    "system/gateway/test_orders.py": ["what is promised within a second is looked at after a second"] * 3,
    "system/gateway/test_speed.py": [
        "the service comes to rest",
        "its context switches are counted over 5 s",
    ],
}
"""The fixed sleeps of a second or more that remain, by file: nothing happens that could be waited for."""


def sleeps(source: str) -> Iterator[float]:
    """The seconds of each call of ``sleep`` with a constant of at least ``LONG``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep" and node.args:
            seconds = node.args[0]
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
    source = "import time\ntime.sleep(2)\nsleep(1.0)\ntime.sleep(0.5)\ntime.sleep(left)\n"
    assert list(sleeps(source)) == [2.0, 1.0]
