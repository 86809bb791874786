"""A reader that ends early, such as head, is no error to report: for a page on standard output, too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder.cli.main import piimg
from imagebuilder.cli.report_file import chosen


@pytest.mark.parametrize(
    "words", [["sheet", "-o", "-"], ["sheet", "-o", "/dev/stdout"], ["plan", "--json"], ["export", "hosts"]]
)
def test_nothing_is_said(words: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(piimg, ["init", str(tmp_path / "c"), "--yes"]).exit_code == 0
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", "from imagebuilder.cli.main import main; main()", *words],
        cwd=tmp_path / "c",
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert "roken pipe" not in done.stderr.decode() and "cannot save" not in done.stderr.decode()
    assert done.returncode == 1


def test_the_report_of_a_run_is_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    file = chosen(f"/dev/fd/{writer}", False)
    os.close(reader)
    file.save([], [])
    os.close(writer)
    assert capsys.readouterr().err == ""
