"""`piimg doctor --report`: what is in the file, who may read it, and a place that cannot be written."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imagebuilder.cli import bug_report
from imagebuilder.cli.main import piimg
from imagebuilder.errors import UsageError

SECRET = "correct horse battery"


def doctor(file: Path, *before: str) -> Result:
    """The doctor of a use that changes nothing on this machine, with a report in ``file``."""
    return CliRunner().invoke(piimg, [*before, "doctor", "boot", "--report", str(file)])


def made(file: Path, *before: str) -> dict[str, Any]:
    """The report."""
    done = doctor(file, *before)
    assert done.exit_code in (0, 1), done.output
    document: dict[str, Any] = json.loads(file.read_text())
    return document


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A new cluster folder with a secret."""
    folder = tmp_path / "mycluster"
    assert CliRunner().invoke(piimg, ["init", str(folder)]).exit_code == 0
    secrets = folder / "secrets.toml"
    secrets.write_text(f'wifi_psk = "{SECRET}"\n')
    secrets.chmod(0o600)
    return folder


def test_it_has_versions_host_cards_log_and_last_report(cluster: Path, tmp_path: Path) -> None:
    (cluster / "build").mkdir()
    older, newer = (cluster / "build" / f"{name}-report.json" for name in ("station", "flash"))
    older.write_text('{"cards": []}')
    newer.write_text('{"cards": [{"verdict": "good"}]}')
    os.utime(older, (1, 1))
    log, file = tmp_path / "piimg.log", tmp_path / "bug.json"
    options = ("--manifest", str(cluster / "cluster.toml"), "--log-file", str(log))
    CliRunner().invoke(piimg, [*options, "plan", "--release", "trixie"])
    found = made(file, *options)
    assert found["piimg"] and found["python"].startswith("3.")
    assert found["libraries"]["click"] and found["tools"]["mount"]
    assert found["host"]["name"] == os.uname().nodename and found["host"]["root"] == (os.geteuid() == 0)
    assert [use["use"] for use in found["doctor"]["uses"]] == ["boot"]
    assert isinstance(found["cards"]["cards"], list)
    assert found["log"]["file"] == str(log)
    assert len([line for line in found["log"]["lines"] if " piimg 0." in line]) == 2
    assert found["report"] == {"file": str(newer), "content": {"cards": [{"verdict": "good"}]}}
    assert "serial numbers" in found["about"] and "name of this machine" in found["about"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SECRET not in file.read_text() + log.read_text()


def test_a_file_that_others_could_read_is_theirs_no_more(tmp_path: Path) -> None:
    file = tmp_path / "bug.json"
    file.write_text("older")
    file.chmod(0o644)
    made(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_log_it_says_how_to_have_one(tmp_path: Path) -> None:
    file = tmp_path / "bug.json"
    done = doctor(file)
    assert json.loads(file.read_text())["log"] is None
    assert "--log-file piimg.log doctor --report" in done.stderr
    assert "read it before you send it" in done.stderr


def test_what_cannot_be_found_out_is_an_error_in_its_place(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster / "build").mkdir()
    (cluster / "build" / "flash-report.json").write_text("{ torn")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("imagebuilder.system.process._SBIN", "/nonexistent")
    monkeypatch.setitem(__import__("sys").modules, "imagebuilder.cli.commands.cards", None)
    found = made(tmp_path / "bug.json", "--manifest", str(cluster / "cluster.toml"))
    assert found["tools"] == {"error": "dpkg-query is not installed"}
    assert "error" in found["cards"] and "error" in found["report"]
    assert found["host"]["kernel"]


def test_only_the_end_of_a_long_log_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bug_report, "_LOG_LIMIT", 900)
    log = tmp_path / "piimg.log"
    for number in range(9):
        CliRunner().invoke(piimg, ["--log-file", str(log), "init", str(tmp_path / str(number))])
    assert log.stat().st_size > 900
    found = made(tmp_path / "bug.json", "--log-file", str(log))
    assert 0 < sum(len(line) + 1 for line in found["log"]["lines"]) <= 900


def test_it_replaces_no_log(tmp_path: Path) -> None:
    log = tmp_path / "piimg.log"
    done = doctor(log, "--log-file", str(log))
    assert isinstance(done.exception, UsageError) and done.exception.message.endswith(": the log")
    assert " piimg 0." in log.read_text()


@pytest.mark.parametrize("name", ["absent/bug.json", "folder", "pipe"])
def test_a_place_that_is_no_good_is_reported_before_anything(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    done = doctor(tmp_path / name)
    assert done.exit_code != 0
    assert isinstance(done.exception, UsageError) or done.exit_code == 2
    assert "ready" not in done.stdout
