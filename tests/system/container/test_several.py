"""Containers beside each other, and containers that are killed: loop devices are the whole machine's."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.system import loop
from tests.support.waiting import wait_until
from tests.system.container.conftest import Cluster, digests
from tests.system.container.engine import Engine
from tests.system.container.test_rights import BUILD, PRIVILEGED, there

pytestmark = [pytest.mark.timeout(1200), pytest.mark.container]


@pytest.fixture
def copy(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A checkout with keys. In the end nothing of it is attached or mounted anywhere."""
    one = cluster.copy_with_keys(tmp_path / "checkout")
    yield one
    assert attached(one) == [] and mounted(one) == []


def attached(copy: Path) -> list[Path]:
    """The loop devices that are attached to any file of the checkout's node images, finished or not."""
    files = []
    for file in copy.glob("build*/*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            files.append(file.stat())
    known = {(info.st_dev, info.st_ino) for info in files}
    found = [Path("/dev") / entry.name for entry in Path("/sys/block").glob("loop*")]
    return [
        device
        for device in found
        if (held := loop.backing(device)) is not None and (held.device, held.inode) in known
    ]


def mounted(copy: Path) -> list[str]:
    """What is mounted of it, in whichever process's eyes."""
    names = {f"/dev/{device.name}" for device in attached(copy)}
    lines: list[str] = []
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            lines += [line for line in table.read_text().splitlines() if names & set(line.split(" "))]
        except OSError:
            continue  # that process has ended
    return lines


def test_two_at_once_do_not_meet(engine: Engine, container: str, cluster: Cluster, copy: Path) -> None:
    """Each builds both nodes, both at a time: four images are mounted beside each other."""
    engine.good("run", *there(copy), "--user=0", container, "--progress=plain", "fetch")
    which = ("build-a", "build-b")
    running = [engine.start("run", *there(copy), *PRIVILEGED, container, *BUILD[:-1], one) for one in which]
    for one in running:
        said = one.communicate()[0]
        assert one.returncode == 0, said
    assert [digests(copy / one) for one in which] == [cluster.digests] * 2


@contextlib.contextmanager
def halted(running: "subprocess.Popen[bytes]", number: Path, copy: Path) -> Iterator[int]:
    """Halt piimg, the container's first process, while a root partition is mounted; its process number.

    It goes on when the block ends, unless it was killed.
    """
    deadline = time.monotonic() + 120
    first = 0
    try:
        while not first or not mounted(copy):
            if first:
                os.kill(first, signal.SIGCONT)
                first = 0
            assert running.poll() is None and time.monotonic() < deadline
            if mounted(copy):
                first = int(number.read_text())
                os.kill(first, signal.SIGSTOP)
            else:
                time.sleep(0.01)
        yield first
    finally:
        if first:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGCONT)


def awaits(process: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a process that is halted (ShdPnd in proc(5))."""
    text = Path(f"/proc/{process}/status").read_text()
    return bool(int(text.partition("ShdPnd:")[2].split()[0], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("way", ["podman kill", "SIGKILL to its first process"])
def test_a_killed_one_leaves_nothing_behind(
    way: str, engine: Engine, container: str, cluster: Cluster, copy: Path
) -> None:
    """While a root partition is mounted; and the next build is none the worse for it."""
    name, number = f"piimg-{os.getpid()}-{copy.parent.name}", copy.parent / "number"
    words = (f"--name={name}", f"--pidfile={number}", *there(copy), *PRIVILEGED, container, *BUILD)
    with engine.start("run", *words) as running:
        with halted(running, number, copy) as first:
            if way == "podman kill":
                engine.good("kill", name)
            else:
                os.kill(first, signal.SIGKILL)
        running.communicate()
    wait_until(lambda: not attached(copy) and not mounted(copy), 20, lambda: (attached(copy), mounted(copy)))
    assert list((copy / "build").glob(".*.partial"))  # what was half-built, which the next build removes
    engine.good("run", *there(copy), *PRIVILEGED, container, *BUILD)
    assert digests(copy / "build") == cluster.digests
    assert not list((copy / "build").glob(".*.partial"))


def test_a_stopped_one_ends_well(engine: Engine, container: str, copy: Path) -> None:
    """podman stop sends SIGTERM to piimg, which is the container's first process."""
    name, number = f"piimg-{os.getpid()}-{copy.parent.name}", copy.parent / "number"
    words = (f"--name={name}", f"--pidfile={number}", *there(copy), *PRIVILEGED, container)
    build = ("build", "--node", "worker1", "--output", "build")  # one node: no other can be done before
    with (
        engine.start("run", *words, *build) as running,
        halted(running, number, copy) as first,
        engine.start("stop", "--time=60", name) as stopping,
    ):
        wait_until(lambda: awaits(first, signal.SIGTERM) or stopping.poll() is not None, 60, pause=0.01)
        assert stopping.poll() is None
        os.kill(first, signal.SIGCONT)
        said = running.communicate()[0]
        assert stopping.wait() == 0
    assert running.returncode == 130, said
    assert not list((copy / "build").glob("*.img")) and not list((copy / "build").glob(".*.partial"))
