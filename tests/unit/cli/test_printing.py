"""Nothing from outside is printed as more than text: the functions and renderers that print."""

import ast
import dataclasses
import io
import re
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import imagebuilder
from imagebuilder.cli.progress.bars import Bars
from imagebuilder.cli.progress.base import Renderer
from imagebuilder.cli.progress.jsonlines import JsonLines
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.tables import table
from imagebuilder.device.discovery import disk_from
from imagebuilder.events import Advanced, Finished, Message, Started
from imagebuilder.history.store import plain
from imagebuilder.system.process import failure
from imagebuilder.text import printable
from tests.support.hostile import HOSTILE, harmless


@given(st.text(alphabet=st.characters(), max_size=20), st.integers(1, 12))
def test_what_is_printable(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable() and len(shown) <= limit
    assert printable(text, None, keep="\n").replace("\n", "").isprintable()
    assert printable(text, None) == text if text.isprintable() else len(printable(text, None)) == len(text)


def test_all_that_is_not_printable_is_replaced() -> None:
    every = [chr(c) for c in (*range(0x20), *range(0x7F, 0xA0), 0xAD, *range(0x200B, 0x2010), 0x2028, 0x2029)]
    every += [chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF, 0xDC9B, 0xE0001)]
    assert printable("".join(every), None) == "?" * len(every)
    assert printable(HOSTILE + string.printable[:95]) == f"?]0;owned??[2J?31m???????{string.printable[:74]}…"
    assert printable("ärger 試 🙂", None) == "ärger 試 🙂"


def test_only_one_module_prints() -> None:
    """Whoever prints past output.py and progress.py prints what a terminal obeys."""
    package = Path(imagebuilder.__file__).parent
    found = []
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if re.fullmatch(r"print|click\.(echo|secho|prompt|confirm)|sys\.std(out|err)\.write", called):
                    found.append(file.name)
    assert set(found) == {"output.py"}


@pytest.mark.parametrize("renderer", [Plain, JsonLines, Bars])
def test_every_renderer(renderer: Callable[[io.StringIO], Renderer]) -> None:
    stream = io.StringIO()
    with renderer(stream) as one:
        one.expect(HOSTILE, 10, HOSTILE)
        for event in (
            Message("warning", HOSTILE, HOSTILE, {HOSTILE: HOSTILE}),
            Started(HOSTILE, HOSTILE, 10),
            Advanced(HOSTILE, HOSTILE, 5, 10),
            Finished(HOSTILE, HOSTILE, False),
        ):
            one.emit(event)
        one.note("line", HOSTILE, HOSTILE, {"slot": HOSTILE})
        one.say(HOSTILE)
    said = stream.getvalue()
    assert "owned" in said
    ours = re.sub(r"\x1b\[(\d*A|J|K)|\r", "", said) if renderer is Bars else said
    assert harmless(ours), repr(said)


def test_what_devices_and_programs_say() -> None:
    properties = {
        "DEVPATH": f"/devices/{HOSTILE}/block/sdz",
        "DEVNAME": "/dev/sdz",
        "MAJOR": "8",
        "MINOR": "0",
    }
    names = ("ID_VENDOR", "ID_MODEL", "ID_SERIAL_SHORT", "ID_PATH", "ID_NAME", "ID_SERIAL")
    disk = disk_from(properties | dict.fromkeys(names, HOSTILE), {"size": "2048"})
    shown = [disk.slot, disk.model, disk.serial, disk.path]
    assert all(map(str.isprintable, shown)) and "owned" in disk.model
    assert all(str(value).isprintable() for value in dataclasses.asdict(disk).values())
    assert harmless(table(["A", "B"], [[HOSTILE, f"x\n{HOSTILE}"]]))
    assert table(["A"], [["x\ny"]]) == "A\nx?y"
    assert plain(HOSTILE).isprintable()
    error = failure("mkfs.vfat", 1, b"", f"mkfs.vfat: no {HOSTILE}{'x' * 9999}".encode())
    assert error.message.isprintable() and len(error.message) < 600
