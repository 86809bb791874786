"""`--report` as a user gives it: files, devices, pipes, standard output. The tests make their own nodes."""

import json
import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from imagebuilder.card.source import HEAD
from imagebuilder.device.discovery import Disk
from tests.integration.card.running import command, environment
from tests.integration.card.test_commands import piimg
from tests.integration.card.test_write import head

NULL, FULL = os.makedev(1, 3), os.makedev(1, 7)


def flash(card: Disk, *options: object) -> list[object]:
    return ["flash", card.node, "-n", "worker1", "--virtual", "--yes", *options]


def node(path: Path, kind: int, device: int) -> Path:
    os.mknod(path, kind | 0o666, device)
    return path


@pytest.mark.parametrize("command", ["flash", "station --yes --slot some"])
def test_a_disk_is_no_place_for_a_report(cluster: Path, card: Disk, command: str) -> None:
    """A loop device of the test's own, by its node, by another and by a link, is refused beforehand."""
    number = os.makedev(*map(int, card.number.split(":")))
    disk = node(cluster / "disk", stat.S_IFBLK, number)
    (cluster / "link").symlink_to("disk")
    for place in (disk, cluster / "link", card.node):
        done = piimg(cluster, *command.split(), "--report", place)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"cannot save the report to {place}: it is a block device" in done.stderr
    assert stat.S_ISBLK(card.node.lstat().st_mode)
    assert disk.lstat().st_rdev == card.node.lstat().st_rdev == number
    assert head(card) == bytes(HEAD)


def test_a_place_that_is_no_good_is_refused_beforehand(cluster: Path, card: Disk) -> None:
    (cluster / "circle").symlink_to("circle")
    (cluster / "inner").mkdir()
    for place, why in (
        ("circle", "circle"),
        ("no/such/r.json", "there is no folder no"),
        ("cluster.toml/r.json", "not a folder"),
        ("inner", "directory"),
        ("/dev/fd/77", "did not inherit"),
        ("/proc/1/comm/x", "not a folder"),
    ):
        done = piimg(cluster, *flash(card, "--report", place))
        assert (done.returncode, done.stdout) == (2, ""), place
        assert why in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_device_is_written_into(cluster: Path, card: Disk) -> None:
    null = node(cluster / "null", stat.S_IFCHR, NULL)
    full = node(cluster / "full", stat.S_IFCHR, FULL)
    (cluster / "link").symlink_to(null)
    for place in (null, cluster / "link"):
        done = piimg(cluster, *flash(card, "--report", place))
        assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
        assert "good" in done.stdout
    done = piimg(cluster, *flash(card, "--report", full))
    assert done.returncode == 0
    assert f"warning: the report could not be saved to {full}: No space left on device" in done.stderr
    assert "good" in done.stdout
    assert (null.lstat().st_rdev, full.lstat().st_rdev) == (NULL, FULL)
    assert stat.S_ISLNK((cluster / "link").lstat().st_mode)


def test_a_pipe_that_nobody_reads_costs_the_report_alone(cluster: Path, card: Disk) -> None:
    os.mkfifo(cluster / "pipe")
    done = piimg(cluster, *flash(card, "--report", "pipe"))
    assert (done.returncode, "good" in done.stdout) == (0, True)
    assert "warning: the report could not be saved to pipe: no program reads from this pipe" in done.stderr


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "link"])
@pytest.mark.parametrize("into", ["a pipe", "a file"])
def test_standard_output_gets_the_report_and_nothing_else(
    cluster: Path, card: Disk, name: str, into: str
) -> None:
    (cluster / "link").symlink_to("/dev/stdout")
    if into == "a file":
        done = piimg(cluster, *flash(card, "--report", name))
        code, out, said = done.returncode, done.stdout, done.stderr
    else:
        argv = command(*flash(card, "--report", name))
        ended = subprocess.run(
            argv, cwd=cluster, capture_output=True, text=True, check=False, env=environment()
        )
        code, out, said = ended.returncode, ended.stdout, ended.stderr
    assert code == 0, said
    assert [load["verdict"] for load in json.loads(out)["cards"]] == ["good"]
    assert "VERDICT" in said
    assert {"-", "link"} & {one.name for one in cluster.iterdir()} == {"link"}
    assert (cluster / "link").is_symlink()
    both = piimg(cluster, *flash(card, "--report", name, "--json"))
    assert (both.returncode, both.stdout) == (2, "")
    assert "would both print the report" in both.stderr


def test_a_pipe_of_the_shell_gets_the_report(cluster: Path, card: Disk) -> None:
    words = shlex.join(command(*flash(card)))
    done = subprocess.run(
        ["bash", "-c", f"{words} --report >(cat >got.json); wait $!"],
        cwd=cluster, capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    assert "VERDICT" in done.stdout
    assert json.loads((cluster / "got.json").read_text())["cards"][0]["verdict"] == "good"


def test_a_file_called_dash_is_a_file(cluster: Path, card: Disk) -> None:
    done = piimg(cluster, *flash(card, "--report", "./-"))
    assert done.returncode == 0
    assert json.loads((cluster / "-").read_text())["cards"][0]["verdict"] == "good"
