"""What `piimg init` says about what it chose: fewer workers than usual, and no key to log in with."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder.cli.main import piimg


def said(folder: Path, *words: str) -> str:
    done = CliRunner().invoke(piimg, ["init", str(folder), "--yes", *words])
    assert done.exit_code == 0, done.output
    return done.stderr


@pytest.mark.parametrize(
    ("network", "note"),
    [
        ("10.0.0.0/30", "only 1 worker fits into 10.0.0.0/30"),
        ("10.0.0.0/29", ""),
        ("10.0.0.0/24", ""),
    ],
)
def test_fewer_workers_than_usual_are_reported(tmp_path: Path, network: str, note: str) -> None:
    text = said(tmp_path / "c", "--network", network)
    assert note in text if note else "only" not in text
    assert "only" not in said(tmp_path / "d", "--network", network, "--workers", "1")


def test_without_a_key_it_says_where_one_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_USER", raising=False)
    text = said(tmp_path / "c")
    assert f"public keys that may log in: none in {tmp_path}/.ssh; piimg makes one for the cluster" in text
    (tmp_path / ".ssh").mkdir()
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0Y2hlY2tlZGtleWZvcnRlc3RzMDAwMDAwMDAwMDAw me\n"
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text(key)
    assert "none" not in said(tmp_path / "d").partition("public keys")[2]
    assert "none in" not in said(tmp_path / "e", "--ssh-key", str(tmp_path / ".ssh" / "id_ed25519.pub"))


@pytest.mark.parametrize("board", ["pi-3b++", "zzz"], ids=["near", "unlike any"])
def test_a_board_that_does_not_exist(tmp_path: Path, board: str) -> None:
    done = CliRunner().invoke(piimg, ["init", str(tmp_path / "c"), "--yes", "--master-board", board])
    text = str(done.exception)
    assert f"no board is named {board}" in text
    assert text.endswith("; is pi-3b+ meant?") == (board == "pi-3b++")
    assert (", pi-4b, " in text) == (board == "zzz")
