"""Cards that fail and cards that lie: real loop devices over nbdkit with a fault in it."""

import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagebuilder.card.find import Disk, disk_at
from imagebuilder.system import loop

MIB = 1 << 20
PLUGIN = Path(__file__).with_name("faulty.py")
SIZE = 64 * MIB


class Rig:
    """Faulty cards, each over a server of its own that can be killed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.servers: dict[Path, subprocess.Popen[bytes]] = {}

    def __call__(self, **parameters: str | int) -> Disk:
        """A card of 64 MiB full of 0xFF, with the fault that ``parameters`` tell the plugin."""
        folder = self.folder / f"faulty{len(self.servers)}"
        point = folder / "point"
        point.mkdir(parents=True)
        (folder / "data").write_bytes(b"\xff" * SIZE)
        served = [f"{name}={value}" for name, value in parameters.items()]
        server = ["nbdkit", "-s", "python", str(PLUGIN), f"file={folder / 'data'}", *served]
        with (folder / "log").open("wb") as log:
            fuse = subprocess.Popen(["nbdfuse", str(point), "--command", *server], stderr=log, stdout=log)
        self.stack.callback(_end, fuse, point)
        deadline = time.monotonic() + 10
        while not (point / "nbd").exists():
            assert time.monotonic() < deadline and fuse.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        device = self.stack.enter_context(loop.attached(point / "nbd", direct_io=True))
        self.servers[device] = fuse
        return disk_at(device)

    def pull(self, disk: Disk) -> None:
        """Take the card out: nothing that is asked of it is answered any more."""
        self.servers[disk.node].kill()
        self.servers[disk.node].wait()


def _end(fuse: subprocess.Popen[bytes], point: Path) -> None:
    deadline = time.monotonic() + 10
    while subprocess.run(["fusermount3", "-u", str(point)], check=False, capture_output=True).returncode:
        assert time.monotonic() < deadline, f"{point} is still in use"
        time.sleep(0.05)  # a loop device lets go of its file a moment after it is detached
    try:
        fuse.wait(10)
    except subprocess.TimeoutExpired:
        fuse.kill()
        fuse.wait()


def require() -> None:
    """Skip, saying why, when the servers that make up a faulty card are not installed."""
    for program, package in (("nbdkit", "nbdkit"), ("nbdfuse", "libnbd-bin")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: sudo apt-get install {package}")
    if subprocess.run(["nbdkit", "--dump-plugin", "python"], capture_output=True, check=False).returncode:
        pytest.skip("nbdkit has no Python plugin: sudo apt-get install nbdkit-plugin-python")
