"""Packages: what is left when a run is stopped or killed; the same tree without root."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imagebuilder.base.cache import Cache
from imagebuilder.dressing.dress import dressed
from imagebuilder.dressing.request import Request
from imagebuilder.errors import Interrupted
from imagebuilder.events import Silent
from imagebuilder.system.files import copy_sparse
from tests.support.waiting import wait_until
from tests.system.real.dressing_bench import Bench, for_nobody, opened_with, records_of
from tests.system.real.test_bases import working_for

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]

PATIENCE = 120.0  # seconds


KILLED = """
import threading
from pathlib import Path
from imagebuilder.base.cache import Cache
from imagebuilder.dressing.dress import dressed
from imagebuilder.dressing.request import Request
from imagebuilder.events import Silent
from imagebuilder.image.base.opening import open_base
from imagebuilder.software import BuildScript
base = open_base(Path({file!r}), "the base", {digest!r}, Silent(), index=Path({index!r}))
script = BuildScript("20-test", "own", "x", b"#!/bin/sh\\nsetsid sleep 999 &\\necho begun; sleep 1000\\n")
dressed(base, Request((), (script,)), Cache(Path({cache!r})), Silent(), threading.Event())
"""


@pytest.mark.parametrize("rootless", [False, True])
def test_a_kill_leaves_no_mount_no_process_and_no_base(bench: Bench, rootless: bool) -> None:
    with for_nobody(bench) as (folder, python):
        cache, file = folder / "cache", folder / "base.img" if rootless else bench.base.file
        index = file.with_name("base.known")
        code = KILLED.format(file=str(file), digest=bench.base.digest, cache=str(cache), index=str(index))
        with subprocess.Popen(python(code) if rootless else [sys.executable, "-c", code]) as maker:
            logs = cache / "dressed"
            wait_until(lambda: any(b"begun" in log.read_bytes() for log in logs.glob("*.log")), PATIENCE)
            assert working_for(cache)
            maker.send_signal(signal.SIGKILL)
        wait_until(lambda: not working_for(cache), PATIENCE, lambda: working_for(cache))
        begun = ("sleep 999", "sleep 1000")
        wait_until(
            lambda: not [line for line in processes() if line.rstrip().endswith(begun)], PATIENCE, processes
        )
        clean = "import sys; sys.argv[1:] = ['cleanup']; from imagebuilder.cli.main import main; main()"
        subprocess.run(python(clean) if rootless else [sys.executable, "-c", clean], check=True)
        listed = subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True)
        assert str(folder) not in listed.stdout
        assert str(folder) not in Path("/proc/self/mountinfo").read_text()
        assert {path.suffix for path in logs.iterdir()} <= {".log", ".lock"}


def test_a_stop_ends_the_downloads(bench: Bench, tmp_path: Path) -> None:
    """From a server that accepts connections and sends nothing: apt would wait for it."""
    file = tmp_path / "base.img"
    copy_sparse(bench.base.file, file)
    with socket.create_server(("127.0.0.1", 0)) as server:
        base = opened_with(
            file, f"deb [trusted=yes] http://127.0.0.1:{server.getsockname()[1]} ./\n", tmp_path
        )
        stop, cache = threading.Event(), Cache(tmp_path / "cache")

        def accept() -> None:
            with server.accept()[0] as connection:
                connection.recv(1)
                stop.set()
                connection.recv(1 << 16)

        thread = threading.Thread(target=accept)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(Interrupted):
            dressed(base, Request(("piimg-top",)), cache, Silent(), stop)
        assert time.monotonic() - begun < 15, "apt's own limit is 20 seconds"
        thread.join()
    assert working_for(cache.folder) == []


def processes() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


DRESSED = """
import sys, threading
from pathlib import Path
from imagebuilder.base.cache import Cache
from imagebuilder.dressing.dress import dressed
from imagebuilder.dressing.request import Request
from imagebuilder.events import Silent
from imagebuilder.image.base.opening import open_base
base = open_base(Path({file!r}), "the base", {digest!r}, Silent())
request = Request(("piimg-one", "piimg-secrets", "piimg-top"))
print(dressed(base, request, Cache(Path({cache!r})), Silent(), threading.Event()).path)
"""


def test_without_root_the_tree_is_the_same(bench: Bench) -> None:
    """By fuse2fs in a user namespace, with a range of numbers for nobody in /etc/subuid."""
    by_root = records_of(bench.dress("piimg-one", "piimg-secrets", "piimg-top").path)
    with for_nobody(bench) as (folder, python):
        code = DRESSED.format(
            file=str(folder / "base.img"), digest=bench.base.digest, cache=str(folder / "cache")
        )
        done = subprocess.run(python(code), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        without = records_of(Path(done.stdout.strip()))
    differ = [key for key in by_root.keys() | without.keys() if by_root.get(key) != without.get(key)]
    assert {key: (by_root.get(key), without.get(key)) for key in differ} == {}
