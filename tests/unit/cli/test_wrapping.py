"""Messages are wrapped at words to the width of a terminal, and whole in a pipe."""

import io
import os
import pty
import sys
import termios

import pytest

from imagebuilder.cli.errors import print_error
from imagebuilder.cli.output import echo, fitted
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.errors import PiimgError

MESSAGE = "the partition table of build/worker1.img cannot be used: it reaches behind the end of the image"
HINT = "fetch or copy the image again, and compare its checksum with the one that is published"


def lines_at(columns: int, monkeypatch: pytest.MonkeyPatch, show: str) -> list[str]:
    """What a terminal of that many columns gets."""
    main, other = pty.openpty()
    termios.tcsetwinsize(other, (24, columns))
    with os.fdopen(other, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        error = PiimgError(MESSAGE, HINT)
        if show == "error":
            print_error(error)
        elif show == "renderer":
            print_error(error, Plain(stream))
        else:
            echo(show, err=True)
        stream.write("\a")
        stream.flush()
        text = ""
        while not text.endswith("\a"):
            text += os.read(main, 4096).decode()
    os.close(main)
    return text.removesuffix("\a").replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("show", ["error", "renderer"])
def test_an_error_is_wrapped_at_words(monkeypatch: pytest.MonkeyPatch, show: str) -> None:
    lines = lines_at(50, monkeypatch, show)
    assert len(lines) == 5 and all(len(line) <= 50 for line in lines)
    assert lines[0].startswith("piimg: the partition") and all(line.startswith(" " * 7) for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == f"piimg: {MESSAGE} {HINT}"


def test_columns_and_long_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    table = "DEVICE    SLOT          SIZE     MODEL             GETS"
    assert lines_at(40, monkeypatch, table) == [table]
    word = "/" + "x" * 60
    assert lines_at(40, monkeypatch, f"note: no {word} there") == ["note: no", f"      {word}", "      there"]
    assert lines_at(10, monkeypatch, MESSAGE) == [MESSAGE]


def test_a_pipe_gets_one_line_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(PiimgError(MESSAGE, HINT))
    assert capsys.readouterr().err == f"piimg: {MESSAGE}\n       {HINT}\n"
    assert fitted(MESSAGE, io.StringIO()) == MESSAGE
