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

TRIES = 10


@pytest.fixture
def copies(cluster: Cluster, tmp_path: Path) -> Iterator[list[Path]]:
    """Two checkouts with keys. In the end nothing of them is attached or mounted anywhere."""
    both = [cluster.copy_with_keys(tmp_path / name / "checkout") for name in "ab"]
    yield both
    for one in both:
        bases = list((one.parent / "cache").rglob("*"))
        assert attached(one, *bases) == [] and mounted(one, *bases) == []


@pytest.fixture
def copy(copies: list[Path]) -> Path:
    """One of them."""
    return copies[0]


def unfinished(copy: Path) -> list[Path]:
    """What is there of nodes only while they are prepared or built."""
    return [*copy.glob("build*/.*.partial"), *copy.glob("manifests/state/*/prepared/.piimg-*")]


def attached(copy: Path, *others: Path) -> list[Path]:
    """The loop devices that are attached to any file of the checkout's nodes, or to others."""
    files = []
    for file in (*copy.glob("build*/*"), *copy.glob("manifests/state/**/*"), *others):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            files.append(file.stat())
    known = {(info.st_dev, info.st_ino) for info in files}
    found = [Path("/dev") / entry.name for entry in Path("/sys/block").glob("loop*")]
    return [
        device
        for device in found
        if (held := loop.backing(device)) is not None and (held.device, held.inode) in known
    ]


def mounted(copy: Path, *others: Path) -> list[str]:
    """What is mounted of them, in whichever process's eyes."""
    names = {f"/dev/{device.name}" for device in attached(copy, *others)}
    lines: list[str] = []
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            lines += [line for line in table.read_text().splitlines() if names & set(line.split(" "))]
        except OSError:
            continue  # that process has ended
    return lines


@pytest.mark.parametrize("same", [False, True], ids=["two checkouts", "one checkout"])
def test_two_at_once_do_not_meet(
    same: bool, engine: Engine, container: str, cluster: Cluster, copies: list[Path]
) -> None:
    """Each builds both nodes, both at a time: four images are mounted beside each other. In one checkout, a
    node is prepared by one of them only, while the other waits."""
    which = [(copies[0], "build-a"), (copies[0 if same else 1], "build-b")]
    for copy in {copy for copy, _ in which}:
        engine.good("run", *there(copy), "--user=0", container, "--progress=plain", "fetch")
    running = [
        engine.start("run", *there(copy), *PRIVILEGED, container, *BUILD[:-1], target)
        for copy, target in which
    ]
    for one in running:
        said = one.communicate()[0]
        assert one.returncode == 0, said
    assert [digests(copy / target) for copy, target in which] == [cluster.digests] * 2


@contextlib.contextmanager
def halted(
    engine: Engine, copy: Path, name: str, *words: str
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A container that builds, halted while a node's root is mounted: podman, and piimg's process number.

    piimg is the container's first process. It goes on when the block ends, unless it was killed. A node is
    prepared in a second: if that moment is missed, all is done once more.
    """
    number = copy.parent / "number"
    for _ in range(TRIES):
        number.unlink(missing_ok=True)
        for file in (*copy.glob("build/*"), *copy.glob("manifests/state/*/prepared/*")):
            file.unlink()
        options = (f"--name={name}", f"--pidfile={number}", *there(copy), *PRIVILEGED)
        with engine.start("run", *options, *words) as running:
            if (first := _halt(running, number, copy)) == 0:
                assert running.wait() == 0, running.communicate()[0]
                continue
            try:
                yield running, first
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first, signal.SIGCONT)
            return
    raise AssertionError(f"it was never seen mounted in {TRIES} builds")


def _halt(running: "subprocess.Popen[bytes]", number: Path, copy: Path) -> int:
    """Halt piimg while a node's root is mounted; its process number, or 0 if it ended before."""
    while running.poll() is None:
        if not attached(copy):
            time.sleep(0.005)
            continue
        first = int(number.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGSTOP)
            if mounted(copy):
                return first
            os.kill(first, signal.SIGCONT)
    return 0


def awaits(process: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a process that is halted (ShdPnd in proc(5))."""
    text = Path(f"/proc/{process}/status").read_text()
    return bool(int(text.partition("ShdPnd:")[2].split()[0], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("way", ["podman kill", "SIGKILL to its first process"])
def test_a_killed_one_leaves_nothing_behind(
    way: str, engine: Engine, container: str, cluster: Cluster, copy: Path
) -> None:
    """While a root partition is mounted; and the next build is none the worse for it."""
    name = f"piimg-{os.getpid()}-{copy.parents[1].name}"
    with halted(engine, copy, name, container, *BUILD) as (running, first):
        if way == "podman kill":
            engine.good("kill", name)
        else:
            os.kill(first, signal.SIGKILL)
        running.communicate()
    wait_until(lambda: not attached(copy) and not mounted(copy), 20, lambda: (attached(copy), mounted(copy)))
    assert unfinished(copy)  # which the next build removes
    engine.good("run", *there(copy), *PRIVILEGED, container, *BUILD)
    assert digests(copy / "build") == cluster.digests
    assert unfinished(copy) == []


def test_a_stopped_one_ends_well(engine: Engine, container: str, copy: Path) -> None:
    """podman stop sends SIGTERM to piimg, which is the container's first process."""
    name = f"piimg-{os.getpid()}-{copy.parents[1].name}"
    build = ("build", "--node", "worker1", "--output", "build")  # one node: no other can be done before
    with (
        halted(engine, copy, name, container, *build) as (running, first),
        engine.start("stop", "--time=60", name) as stopping,
    ):
        wait_until(lambda: awaits(first, signal.SIGTERM) or stopping.poll() is not None, 60, pause=0.01)
        assert stopping.poll() is None
        os.kill(first, signal.SIGCONT)
        said = running.communicate()[0]
        assert stopping.wait() == 0
    assert running.returncode == 130, said
    assert not list((copy / "build").glob("*.img")) and unfinished(copy) == []
