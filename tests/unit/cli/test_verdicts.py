"""Verdicts are coloured at a terminal, and a bell says that it is over."""

import os
import pty
import sys

import pytest

from imagebuilder.cli.output import echo_verdicts

TABLE = "DEVICE    NODE     VERDICT\n/dev/sdb  worker1  good\n/dev/sdc  good     bad"


def shown(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal gets."""
    main, other = pty.openpty()
    with os.fdopen(other, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        echo_verdicts(TABLE)
        stream.flush()
        text = ""
        while not text.endswith("\a"):
            text += os.read(main, 4096).decode()
    os.close(main)
    return text.replace("\r\n", "\n")


def test_good_and_bad_are_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = shown(monkeypatch)
    assert "worker1  \x1b[32m\x1b[1mgood\x1b[0m\n" in text
    assert "good     \x1b[31m\x1b[1mbad\x1b[0m\n" in text
    assert text.endswith("\a")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_without_colour(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert shown(monkeypatch) == f"{TABLE}\n\a"


def test_neither_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    echo_verdicts(TABLE)
    assert capsys.readouterr().out == f"{TABLE}\n"
