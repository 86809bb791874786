"""The QR code of the page, as a phone reads it: from a terminal, by a reader that is no part of piimg."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagebuilder.cli.web.feed import new_token
from tests.support.checkout import TOP
from tests.support.terminal import Window

pytestmark = pytest.mark.browser

SCALE = 8  # pixels of a module
PRINT = """
import sys
from imagebuilder.cli.output import echo_code
from imagebuilder.cli.web.qr import code_lines
echo_code(code_lines(sys.argv[1]))
"""
HALVES = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}


def shown(text: str, columns: int, **environment: str) -> Window:
    """A terminal on which the code of ``text`` was printed."""
    window = Window(columns, 40)
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(TOP),
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm",
        **environment,
    }
    subprocess.run([sys.executable, "-c", PRINT, text], stderr=window.side, env=env, check=True)
    window.settle(0.5)
    return window


def read(window: Window, folder: Path) -> str:
    """What zbarimg reads on the screen."""
    width = window.screen.columns
    rows: list[list[int]] = []
    for number in range(len(window.lines)):
        line = window.screen.buffer[number]
        assert (line[0].fg, line[0].bg) == ("black", "brightwhite")
        pairs = [HALVES[line[at].data] for at in range(width)]
        rows += [[upper for upper, _ in pairs], [lower for _, lower in pairs]]
    size = f"{width * SCALE} {len(rows) * SCALE}"
    pixels = [
        " ".join(" ".join([str(module)] * SCALE) for module in row) for row in rows for _ in range(SCALE)
    ]
    image = folder / "code.pbm"
    image.write_text(f"P1\n{size}\n" + "\n".join(pixels))
    program = shutil.which("zbarimg")
    assert program is not None, "make test-browser installs zbar-tools"
    done = subprocess.run([program, "--quiet", "--raw", image], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def test_a_phone_can_read_it(tmp_path: Path) -> None:
    url = f"http://192.168.178.100:8180/{new_token()}/"
    assert read(shown(url, 60), tmp_path) == url


@pytest.mark.parametrize(
    ("columns", "environment"), [(30, {}), (60, {"TERM": "dumb"}), (60, {"PYTHONIOENCODING": "ascii"})]
)
def test_it_is_not_shown_where_it_cannot_be_read(columns: int, environment: dict[str, str]) -> None:
    assert shown("http://192.168.178.100:8180/" + "a" * 22, columns, **environment).lines == []
