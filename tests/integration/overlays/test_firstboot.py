"""The first-boot runner, as it is shipped, in a scratch root."""

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagebuilder import resources
from tests.support.waiting import wait_until

RUNNER = resources.shipped("overlays") / "base/root/usr/local/sbin/piimg-firstboot"


@dataclass(frozen=True)
class Scratch:
    """A root of the test's own, with the runner's folders and settings."""

    root: Path

    @property
    def ran(self) -> list[str]:
        """What the scripts wrote to "ran", in order."""
        file = self.root / "ran"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def summary(self) -> dict[str, Any]:
        """The summary on the boot partition."""
        found: dict[str, Any] = json.loads((self.root / "boot/piimg-firstboot.json").read_bytes())
        return found

    @property
    def statuses(self) -> list[tuple[str, str, int]]:
        """Name, status and attempts of every script in the summary."""
        return [(each["name"], each["status"], each["attempts"]) for each in self.summary["scripts"]]

    def script(self, name: str, body: str = "", header: str = "") -> Path:
        """Add a first-boot script that says it ran, then does ``body``."""
        file = self.root / "usr/local/lib/piimg/firstboot.d" / name
        file.write_text(f'#!/bin/bash\n{header}\necho "${{0##*/}}" >>{self.root}/ran\n{body}\n')
        file.chmod(0o755)
        return file

    def start(self) -> subprocess.Popen[bytes]:
        """Start the runner."""
        return subprocess.Popen(
            [RUNNER],
            env={**os.environ, "PIIMG_ROOT": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def boot(self, status: int = 0) -> str:
        """Run the runner to its end and return what it said."""
        process = self.start()
        said, _ = process.communicate(timeout=30)
        assert process.returncode == status, said.decode(errors="replace")
        return said.decode(errors="replace")


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    for folder in ("etc/piimg", "usr/local/lib/piimg/firstboot.d", "boot"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/piimg/node.conf").write_text(
        "CLUSTER='picluster'\nNODE='worker1'\nADDRESS='127.0.0.1'\nINTERFACE='lo'\nGATEWAY='127.0.0.1'\n"
        "BOOT_MOUNT='/boot'\nBACKOFF=0\nPATIENCE=1\n"
    )
    return Scratch(tmp_path)


def test_each_runs_once_in_the_order_of_the_names(scratch: Scratch) -> None:
    for name in ("20-b", "10-z", "99-last", "10-a"):
        scratch.script(name)
    (scratch.root / "usr/local/lib/piimg/firstboot.d/README").write_text("no script")
    scratch.boot()
    scratch.boot()
    assert scratch.ran == ["10-a", "10-z", "20-b", "99-last"]
    assert scratch.statuses == [(name, "done", 1) for name in scratch.ran]
    summary = scratch.summary
    assert (summary["cluster"], summary["node"], summary["boots"]) == ("picluster", "worker1", 1)
    assert summary["finished"] is True


def test_a_script_that_fails_at_first_is_tried_again(scratch: Scratch) -> None:
    scratch.script("10-shy", f'[ "$(wc -l <{scratch.root}/ran)" -ge 3 ]')
    scratch.boot()
    assert scratch.statuses == [("10-shy", "done", 3)]


def test_a_script_that_fails_for_good_keeps_no_other_from_running(scratch: Scratch) -> None:
    scratch.script("10-bad", "echo no such luck; exit 7", "# retries: 2")
    scratch.script("20-good")
    scratch.boot(status=1)
    assert scratch.statuses == [("10-bad", "failed", 3), ("20-good", "done", 1)]
    bad = scratch.summary["scripts"][0]
    assert (bad["exit_status"], bad["said"]) == (7, "no such luck")
    assert not (scratch.root / "var/lib/piimg/firstboot/10-bad").exists()
    # the next boot tries again what has no stamp, and remembers what was done
    scratch.script("10-bad")
    scratch.boot()
    assert scratch.statuses == [("10-bad", "done", 1), ("20-good", "done", 1)]
    assert scratch.ran == ["10-bad"] * 3 + ["20-good", "10-bad"]


def test_the_pause_between_tries_grows(scratch: Scratch) -> None:
    with (scratch.root / "etc/piimg/node.conf").open("a") as conf:
        conf.write("BACKOFF=1 BACKOFF_LIMIT=2\n")
    scratch.script("10-bad", "date +%s.%N >>$0.times; false", "# retries: 2")
    scratch.boot(status=1)
    times = [float(line) for line in next(scratch.root.rglob("*.times")).read_text().split()]
    assert 0.9 < times[1] - times[0] < times[2] - times[1]


@pytest.mark.parametrize("status", [69, 75, 124, 255])
def test_a_status_of_its_own_is_a_failure_all_the_same(scratch: Scratch, status: int) -> None:
    scratch.script("10-odd", f"exit {status}", "# retries: 0")
    scratch.boot(status=1)
    assert scratch.statuses == [("10-odd", "failed", 1)]


def test_a_script_that_hangs_is_ended(scratch: Scratch) -> None:
    scratch.script("10-hangs", "sleep 60", "# timeout: 1\n# retries: 0")
    scratch.script("20-good")
    scratch.boot(status=1)
    assert scratch.statuses == [("10-hangs", "failed", 1), ("20-good", "done", 1)]


def test_what_is_not_there_is_waited_for_and_named(scratch: Scratch) -> None:
    with (scratch.root / "etc/piimg/node.conf").open("a") as conf:
        conf.write("ADDRESS=192.0.2.1\n")  # RFC 5737: nobody's
    scratch.script("10-lan", header="# needs: lan\n# retries: 0")
    scratch.script("20-nonsense", header="# needs: luck\n# retries: 0")
    scratch.script("30-none", header="# needs: none")
    scratch.boot(status=1)
    assert scratch.ran == ["30-none"]
    assert [status for _, status, _ in scratch.statuses] == ["waiting", "waiting", "done"]
    assert scratch.summary["scripts"][0]["needs"] == "lan"


def test_what_it_says_goes_to_the_journal_and_to_the_log(scratch: Scratch) -> None:
    scratch.script("10-talks", "echo to stdout; echo to stderr >&2")
    said = scratch.boot()
    logged = (scratch.root / "var/log/piimg/firstboot.log").read_text()
    for text in (said, logged):
        assert "to stdout\nto stderr\n" in text
        assert '"10-talks": exit status 0' in text


HOSTILE = ['10-a"b', "11-a\\", "12-\nnew", "13-\x01\x7f", "14-é", "15-$(reboot)", "16- ", "17-%s%n", "18-'"]


def test_the_summary_is_json_whatever_a_script_is_called_or_says(scratch: Scratch) -> None:
    noises = [r"\"\\{", r"\x00\x1b[31m\xff\xfe", "%s%n%d", r"\r\r\r", "'", "`id`$(id)", "é漢", "x" * 5000]
    for name, noise in zip(HOSTILE, [*noises, ""], strict=True):
        scratch.script(name, f"printf '%b' {noise!r}; exit 1", "# retries: 0")
    scratch.script("20-good", r"printf '\"\\\x01\xff'")
    scratch.boot(status=1)
    assert len(scratch.summary["scripts"]) == len(HOSTILE) + 1
    assert all(len(each["said"]) <= 200 for each in scratch.summary["scripts"])
    scratch.boot(status=1)
    assert scratch.summary["scripts"][-1]["status"] == "done"


def test_hostile_headers_have_no_say(scratch: Scratch) -> None:
    scratch.script("10-odd", header="# needs: $(reboot)\n# retries: 99999999999999999999\n# timeout: -1")
    scratch.boot()
    assert scratch.statuses == [("10-odd", "done", 1)]


def test_a_power_cut_in_the_middle_runs_it_again_and_nothing_else(scratch: Scratch) -> None:
    scratch.script("10-first")
    scratch.script("20-cut", f"[ -e {scratch.root}/again ] || sleep 60")
    scratch.script("30-last")
    process = scratch.start()
    wait_until(lambda: "20-cut" in scratch.ran)
    assert scratch.summary["finished"] is False
    assert scratch.statuses == [("10-first", "done", 1), ("20-cut", "waiting", 0), ("30-last", "waiting", 0)]
    kill_session(process)
    (scratch.root / "again").touch()
    scratch.boot()
    assert scratch.ran == ["10-first", "20-cut", "20-cut", "30-last"]
    assert all(status == "done" for _, status, _ in scratch.statuses)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the runner and all that it started, also what starts meanwhile; nothing of it runs at the end.

    A session, as timeout(1) makes a process group of its own.
    """
    wait_until(lambda: not _killed_again(process.pid))
    process.communicate()


def _killed_again(session: int) -> bool:
    listed = subprocess.run(
        ["ps", "-s", str(session), "-o", "pid=,state="], capture_output=True, text=True, check=False
    )
    running = [int(pid) for pid, state in map(str.split, listed.stdout.splitlines()) if state != "Z"]
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(running)


def test_half_a_stamp_or_summary_never_stands(scratch: Scratch) -> None:
    scratch.script("10-first")
    state = scratch.root / "var/lib/piimg/firstboot"
    state.mkdir(parents=True)
    (state / "10-first").touch()  # as a power cut before the first sync might leave it
    scratch.boot()
    assert scratch.ran == ["10-first"]
    assert (state / "10-first").stat().st_size > 0
    assert not list(scratch.root.rglob("*.new"))


def test_a_summary_that_a_power_cut_spoiled_is_written_anew(scratch: Scratch) -> None:
    """All have their stamps: nothing runs again, and a summary that is whole is not written again."""
    scratch.script("10-first")
    scratch.boot()
    file = scratch.root / "boot/piimg-firstboot.json"
    whole = file.read_text()
    for spoiled in ("", whole[:-20], whole.replace('"finished": true', '"finished": false')):
        file.write_text(spoiled)
        scratch.boot()
        assert scratch.summary["finished"] is True
        assert scratch.statuses == [("10-first", "done", 1)]
    file.unlink()
    scratch.boot()
    before = file.stat()
    scratch.boot()
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert scratch.ran == ["10-first"]


def test_the_log_has_every_success_once_whatever_a_power_cut_took(scratch: Scratch) -> None:
    """The stamp comes first: a script that has one is not run again, and the log is completed."""
    scratch.script("10-first")
    scratch.script("20-second")
    scratch.boot()
    log = scratch.root / "var/log/piimg/firstboot.log"
    lines = log.read_text().splitlines(keepends=True)
    assert [line.split(" ", 1)[1] for line in lines] == [
        f'"{name}": {said}\n'
        for name in ("10-first", "20-second")
        for said in ("try 1 (needs none)", "exit status 0")
    ]
    for left in range(len(lines) + 1):
        log.write_text("".join(lines[:left]))
        scratch.boot()
        said = log.read_text()
        assert [said.count(f'"{name}": exit status 0\n') for name in ("10-first", "20-second")] == [1, 1]
        assert said.index("10-first") < said.index("20-second")
    assert scratch.ran == ["10-first", "20-second"]


def test_a_boot_partition_that_cannot_be_written_stops_nothing(scratch: Scratch) -> None:
    (scratch.root / "boot").rmdir()
    scratch.script("10-first")
    said = scratch.boot()
    assert scratch.ran == ["10-first"]
    assert "cannot write the summary" in said


def test_a_second_runner_does_not_run_beside_the_first(scratch: Scratch) -> None:
    scratch.script("10-slow", "sleep 1")
    first = scratch.start()
    wait_until(lambda: scratch.ran)
    assert "runs already" in scratch.boot(status=1)
    first.communicate(timeout=20)
    assert scratch.ran == ["10-slow"]


def test_without_settings_it_says_so(scratch: Scratch) -> None:
    (scratch.root / "etc/piimg/node.conf").unlink()
    assert "cannot read" in scratch.boot(status=1)
