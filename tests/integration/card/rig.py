"""Cards that fail and cards that lie: real loop devices over nbdkit with a fault in it (``faulty.py``)."""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagebuilder.card.source import ImageSource
from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.system import loop
from tests.support.waiting import wait_until

MIB = 1 << 20
PLUGIN = Path(__file__).with_name("faulty.py")
SIZE = 64 * MIB
OLD = 0xFF  # what every byte of a card is before


class Rig:
    """Faulty cards, each over a server of its own that can be killed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.servers: dict[Path, subprocess.Popen[bytes]] = {}

    def __call__(self, **parameters: str | int) -> Disk:
        """A card of 64 MiB full of 0xFF, with the fault that ``parameters`` tell the plugin.

        With ``off=1`` it has the fault only once ``switch`` turned it on. A card that announces another size
        is full of zeros.
        """
        file = self.serve(**parameters)
        device = self.stack.enter_context(loop.attached(file, direct_io=True))
        self.stack.callback(_end_stall, file)
        return disk_at(device)

    def serve(self, **parameters: str | int) -> Path:
        """The file that such a card is to be attached over."""
        folder = self.folder / f"faulty{len(self.servers)}"
        point = folder / "point"
        point.mkdir(parents=True)
        if "announced" in parameters:
            (folder / "data").touch()
            os.truncate(folder / "data", int(parameters["announced"]))
        else:
            (folder / "data").write_bytes(bytes([OLD]) * SIZE)
        switch = folder / "switch"
        if not parameters.pop("off", 0):
            switch.touch()
        served = [f"{name}={value}" for name, value in parameters.items()]
        command = ["nbdkit", "-s", "python", PLUGIN, f"file={folder / 'data'}", f"switch={switch}", *served]
        with (folder / "log").open("wb") as log:
            fuse = subprocess.Popen(
                ["nbdfuse", str(point), "--command", *map(str, command)], stderr=log, stdout=log
            )
        self.stack.callback(_end, fuse, point)
        there, said = point / "nbd", folder / "log"
        wait_until(lambda: there.exists() or fuse.poll() is not None, 10, said.read_text, pause=0.01)
        assert fuse.poll() is None, said.read_text()
        self.stack.callback(_end_stall, point / "nbd")
        self.servers[point / "nbd"] = fuse
        return point / "nbd"

    def switch(self, disk: Disk) -> None:
        """Turn the fault of the card on."""
        below(disk).with_name("switch").touch()

    def pull(self, card: Disk | Path) -> None:
        """Take the card (or the file below it) out: nothing that is asked of it is answered any more."""
        server = self.servers[card if isinstance(card, Path) else Path(card.backing)]
        server.kill()
        server.wait()


def below(disk: Disk) -> Path:
    """The file that a faulty card keeps its bytes in."""
    return Path(disk.backing).parent.with_name("data")


def bmaptool_agrees(source: ImageSource, disk: Disk) -> bool:
    """Whether bmaptool finds the card to hold what the block map says."""
    return bmaptool(source, disk.node)


def bmaptool(source: ImageSource, card: Path) -> bool:
    """The same of a card's device."""
    if shutil.which("bmaptool") is None:
        pytest.skip("bmaptool, the second opinion, is not installed: sudo apt-get install bmap-tools")
    block_map = source.content.base.with_suffix(".bmap")
    command = ["bmaptool", "copy", "--bmap", str(block_map), str(card), "/dev/null"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _end_stall(file: Path) -> None:
    """A stall must not outlive its test."""
    file.parent.with_name("switch").unlink(missing_ok=True)


def _end(fuse: subprocess.Popen[bytes], point: Path) -> None:
    unmount = ["fusermount3", "-u", str(point)]
    wait_until(  # a loop device lets go of its file a moment after it is detached
        lambda: subprocess.run(unmount, check=False, capture_output=True).returncode == 0,
        otherwise=lambda: f"{point} is still in use",
    )
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
