"""Waiting for a lock or for a program ends when the command is stopped, and when piimg is killed."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.errors import Interrupted
from imagebuilder.system import files
from imagebuilder.system.process import ToolError, run_until
from tests.support.waiting import wait_until

SOON = 20.0  # seconds
KILLED = """
import sys, threading
from imagebuilder.system.process import run_until
run_until(["sleep", sys.argv[1]], threading.Event())
"""


def stopped_when(begun: Callable[[], bool], stop: threading.Event) -> threading.Thread:
    """Set ``stop`` as soon as ``begun``."""

    def work() -> None:
        wait_until(begun, SOON)
        stop.set()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.timeout(60)
@pytest.mark.parametrize("shared", [False, True])
def test_waiting_for_a_lock_ends_when_told_to_stop(tmp_path: Path, shared: bool) -> None:
    lock, stop, waits = tmp_path / "lock", threading.Event(), list[str]()
    with files.locked(lock, "busy"):
        thread = stopped_when(lambda: bool(waits), stop)
        waiting = files.locked_after_waiting(lock, lambda: waits.append("waits"), stop, shared=shared)
        with pytest.raises(Interrupted), waiting:
            raise AssertionError("two have the lock")
        thread.join()
    assert waits == ["waits"]


def test_shared_locks_exclude_only_exclusive_ones(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first, second = (files.locked(lock, "busy", shared=True) for _ in range(2))
    with first, second, pytest.raises(files.Busy), files.locked(lock, "busy"):
        pass
    with files.locked(lock, "busy"), pytest.raises(files.Busy), files.locked(lock, "busy", shared=True):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_lock_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    other = tmp_path / "other"
    other.touch()
    os.link(other, tmp_path / "linked")
    for name, owner in (("lock", 65534), ("linked", 0)):
        with files.locked(tmp_path / name, "busy"):
            assert (tmp_path / name).stat().st_uid == owner


@pytest.mark.timeout(60)
def test_a_program_is_killed_when_told_to_stop(tmp_path: Path) -> None:
    begun, stop = tmp_path / "begun", threading.Event()
    thread = stopped_when(begun.exists, stop)
    with pytest.raises(Interrupted, match="sh was stopped"):
        run_until(["sh", "-c", f"echo $$ >{begun}; exec sleep 1000"], stop)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_its_output_and_its_failure() -> None:
    done = run_until(["sh", "-c", "echo out; echo err >&2"], threading.Event())
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    with pytest.raises(ToolError) as failed:
        run_until(["sh", "-c", "echo out; echo err >&2; exit 3"], threading.Event())
    assert (failed.value.status, failed.value.stdout, failed.value.stderr) == (3, b"out\n", b"err\n")


@pytest.mark.timeout(60)
def test_a_program_ends_with_piimg() -> None:
    seconds = f"{1000 + os.getpid()}.{time.monotonic_ns()}"

    def sleepers() -> list[Path]:
        words = f"/sleep\0{seconds}\0".encode()
        return [process for process in Path("/proc").glob("[0-9]*") if _command(process).endswith(words)]

    with subprocess.Popen([sys.executable, "-c", KILLED, seconds]) as piimg:
        try:
            wait_until(lambda: bool(sleepers()), SOON)
        finally:
            piimg.kill()
    wait_until(lambda: not sleepers(), SOON)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
