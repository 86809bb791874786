"""Loop devices where nobody makes their nodes, where there are none, and when their owner is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.system import loop
from imagebuilder.system.cleanup import cleanup
from imagebuilder.system.loop import attached
from imagebuilder.system.mount import ext4
from tests.support.machine import Machine, machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")

ATTACH = """
import sys, time
from pathlib import Path
from imagebuilder.errors import PiimgError
from imagebuilder.system.loop import attached
try:
    with attached(Path(sys.argv[1])) as device:
        print(device.is_block_device())
except PiimgError as error:
    print(error.message)
    print(error.hint)
"""

MOUNT = """
import signal, sys
from pathlib import Path
from imagebuilder.system.mount import ext4
with ext4(Path(sys.argv[1]), 0, 8 << 20):
    print("mounted", flush=True)
    signal.pause()
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A file of 8 MiB with an ext4 file system, attached to nothing in the end."""
    path = tmp_path / "file"
    subprocess.run(["mkfs.ext4", "-q", path, "8m"], check=True)
    yield path
    assert devices(path) == []


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Machine]:
    """A machine in whose /dev there is /dev/loop-control and no loop device, as in a container."""
    with machine(tmp_path / "machine") as one:
        assert one.run("ls", "/dev/loop0").returncode
        yield one


def devices(file: Path) -> list[Path]:
    info = file.stat()
    return loop.devices_of(loop.Backing(info.st_dev, info.st_ino, 0))


def attach(bare: Machine, file: Path, *before: str) -> str:
    return bare.good(*before, sys.executable, "-c", ATTACH, file)


def test_a_missing_node_is_made(bare: Machine, file: Path) -> None:
    assert attach(bare, file) == "True\n"


def test_no_more_nodes_to_be_had_is_reported(bare: Machine, file: Path) -> None:
    """As in a container that was given some loop devices: the kernel has more, and they cannot be used."""
    message, hint = attach(bare, file, "setpriv", "--bounding-set=-mknod", "--").splitlines()
    assert message.startswith("no loop device for file: all are in use, and /dev/loop")
    assert "losetup --list" in hint and "--privileged" in hint


def test_no_loop_devices_at_all_are_reported(bare: Machine, file: Path) -> None:
    bare.good("rm", "/dev/loop-control")
    message, hint = attach(bare, file).splitlines()
    assert message == "no loop device for file: /dev/loop-control: No such file or directory"
    assert "modprobe loop" in hint and "--privileged" in hint


def test_a_kernel_that_gives_no_more_is_reported(bare: Machine, file: Path) -> None:
    """What the kernel answers there is, is any error: here that of a device which is not the right one."""
    bare.good("rm", "/dev/loop-control")
    bare.good("mknod", "/dev/loop-control", "c", "1", "5")  # /dev/zero
    message, hint = attach(bare, file).splitlines()
    assert message.startswith("no loop device for file: the kernel has no free one: ")
    assert "losetup --list" in hint


def test_many_at_once_each_have_their_own(tmp_path: Path) -> None:
    files = [tmp_path / f"file{number}" for number in range(12)]
    for one in files:
        one.write_bytes(bytes(1 << 20))
    with ExitStack() as stack, ThreadPoolExecutor(len(files)) as pool:
        found = list(pool.map(lambda one: stack.enter_context(attached(one)), files))
        assert [devices(one) for one in files] == [[device] for device in found]
    assert [devices(one) for one in files] == [[]] * len(files)


def test_offset_size_and_the_right_to_write(tmp_path: Path) -> None:
    file = tmp_path / "a file whose name is longer than what the kernel keeps of it, which is 63 bytes"
    file.write_bytes(b"".join(bytes([number]) * 4096 for number in range(8)))
    with attached(file, offset=4096, size=8192, read_only=True) as device:
        assert device.read_bytes() == b"\1" * 4096 + b"\2" * 4096
        with pytest.raises(PermissionError), device.open("r+b") as stream:
            stream.write(b"x")
    with attached(file, offset=4096, autoclear=True) as device:
        with device.open("r+b") as stream:
            stream.write(b"x")
        assert len(device.read_bytes()) == 7 * 4096
    assert file.read_bytes()[4096:4098] == b"x\1"


def test_past_the_cache_or_not_at_all(tmp_path: Path, file: Path) -> None:
    with attached(file, direct_io=True) as device:
        assert Path(f"/sys/block/{device.name}/loop/dio").read_text() == "1\n"
    with attached(file) as device:
        assert Path(f"/sys/block/{device.name}/loop/dio").read_text() == "0\n"


@pytest.mark.parametrize("step", range(4))
def test_a_killed_container_leaves_none(file: Path, step: int) -> None:
    """Its mounts end with its namespace; nobody can run `piimg cleanup` in there any more."""
    own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--"]
    with subprocess.Popen(
        [*own, "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh", sys.executable, "-c", MOUNT, file],
        stdout=subprocess.PIPE,
    ) as container:
        assert container.stdout
        if step == 0:
            assert container.stdout.readline() == b"mounted\n"
            assert len(devices(file)) == 1
        else:  # at some moment while it is attached and mounted
            while container.poll() is None and not devices(file):
                time.sleep(0.001)
            time.sleep(0.004 * (step - 1))
        container.send_signal(signal.SIGKILL)
    wait_until(lambda: not devices(file))


def test_what_another_namespace_has_mounted_is_reported(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What made a namespace while it was mounted keeps a copy of the mount, as long as it lives."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; read -r _"]
    with ExitStack() as stack:
        stack.callback(cleanup)
        patch = stack.enter_context(monkeypatch.context())
        patch.setattr(loop, "_DETACH_PATIENCE", 0.2)
        with pytest.raises(PiimgError, match="could not be detached") as raised, ext4(file, 0, 8 << 20):
            other = stack.enter_context(
                subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            assert other.stdout and other.stdout.readline() == b"\n"
        why = f"process {other.pid} has it mounted in its own namespace: end that process"
        assert raised.value.hint == f"{why}, then run piimg cleanup"
        other.communicate(b"\n")


def test_what_is_mounted_by_somebody_else_is_reported(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = file.with_name("other")
    other.mkdir()
    with ExitStack() as stack:
        stack.callback(cleanup)
        patch = stack.enter_context(monkeypatch.context())
        patch.setattr(loop, "_DETACH_PATIENCE", 0.2)
        with pytest.raises(PiimgError, match="could not be detached") as raised, attached(file) as device:
            subprocess.run(["mount", device, other], check=True)
            stack.callback(lambda: subprocess.run(["umount", other], check=True))
        with pytest.raises(PiimgError, match=f"could not be detached: it is mounted at {other}"):
            cleanup()
        assert raised.value.hint == f"it is mounted at {other}: sudo umount {other}, then run piimg cleanup"


def test_an_error_frees_it(file: Path) -> None:
    with pytest.raises(PiimgError, match="mine"), attached(file, autoclear=True):
        raise PiimgError("mine", "")
