"""Whether questions can be asked: they are on standard error, and the answers on standard input."""

import os
import pty
import sys
from pathlib import Path

import pytest

from imagebuilder.cli import flashing, keys, output, secrets


@pytest.mark.parametrize(("stdin", "stderr"), [(True, True), (True, False), (False, True), (False, False)])
def test_both_must_be_a_terminal(monkeypatch: pytest.MonkeyPatch, stdin: bool, stderr: bool) -> None:
    main, other = pty.openpty()
    with Path(os.devnull).open() as nowhere, os.fdopen(other) as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", terminal if stdin else nowhere)
        patched.setattr(sys, "stderr", terminal if stderr else nowhere)
        assert output.at_terminal() is (stdin and stderr)
    os.close(main)


def test_there_is_one_answer() -> None:
    assert {vars(module)["at_terminal"] for module in (flashing, keys, secrets)} == {output.at_terminal}
