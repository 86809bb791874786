"""`piimg station` as somebody runs it: at a terminal or without one, with slots that cards are put into."""

import json
import os
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagebuilder.card.source import HEAD, open_source
from tests.integration.card.conftest import CARD_SIZE
from tests.integration.card.rig import bmaptool
from tests.integration.card.running import command, environment
from tests.integration.card.slots import Slot
from tests.support.machine import Machine
from tests.support.terminal import Window

READY = "nodes are done"


class Manned:
    """A station at a terminal, whose answers are typed; without ``typing`` there is nobody to answer."""

    def __init__(
        self,
        cluster: Path,
        slots: list[Slot],
        *options: str,
        typing: bool = True,
        within: Machine | None = None,
    ) -> None:
        self.cluster, self.slots = cluster, slots
        self.window = Window(240, 40)
        # In a machine there are no others' loop devices: there all slots are ours.
        named = (
            []
            if within or any("=" in option for option in options)
            else [f"--slot={slot.name}" for slot in slots]
        )
        line = command("station", "--virtual", *named, *([] if typing else ["--yes"]), *options)
        self.process = subprocess.Popen(
            line if within is None else within.entered(line, cluster),
            cwd=cluster,
            env=environment(),
            stdin=self.window.side if typing else subprocess.DEVNULL,
            stdout=self.window.side,
            stderr=self.window.side,
            start_new_session=True,
        )
        if typing:
            self.see("Start? [y/N]")
            self.window.settle(0.5)  # until what was typed before has been forgotten
            self.type("y\n")
        self.see(READY)

    def see(self, *wanted: str, seconds: float = 60) -> str:
        """Wait until one line of what is or was on the screen has all of these; give all of it."""

        def there(lines: list[str]) -> bool:
            return any(all(text in line for text in wanted) for line in self.window.everything)

        return "\n".join(self.window.wait_for(there, seconds))

    def shows(self, slot: Slot, text: str, seconds: float = 60) -> None:
        """Wait until the line of a slot says this."""
        self.window.wait_for(
            lambda lines: any(line.startswith(slot.name) and text in line for line in lines), seconds
        )

    def type(self, text: str) -> None:
        os.write(self.window.main, text.encode())

    @property
    def echoes(self) -> bool:
        """Whether the terminal is as it was: it shows what is typed."""
        return bool(termios.tcgetattr(self.window.main)[3] & termios.ECHO)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Wait for its end: the exit code, and everything that was on the screen."""
        for _ in range(int(seconds * 10)):
            if self.process.poll() is not None:
                break
            self.window.read(0.1)
        while self.window.read(0.1):
            pass
        return self.process.wait(1), "\n".join(self.window.everything)


@contextmanager
def station(
    cluster: Path, slots: list[Slot], *options: str, typing: bool = True, within: Machine | None = None
) -> Iterator[Manned]:
    """A station that is running, and is ended with the block."""
    one = Manned(cluster, slots, *options, typing=typing, within=within)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        for slot in slots:
            if slot.is_full:
                slot.take()
        os.close(one.window.main)
        os.close(one.window.side)


class Cards:
    """Cards on the table, each a file. ``cards()`` is a new one, as large as is said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def __call__(self, size: int = CARD_SIZE) -> Path:
        self.count += 1
        card = self.folder / f"card{self.count}"
        card.touch()
        os.truncate(card, size)
        return card


def holds(slot: Slot, cluster: Path, node: str) -> bool:
    """Whether bmaptool, which is no part of piimg, finds the node image on the card in a slot."""
    return bmaptool(open_source(cluster / "build" / f"{node}.img"), slot.node)


def start(card: Path) -> bytes:
    """The first MiB of a card."""
    with card.open("rb") as stream:
        return stream.read(HEAD)


def remembered(cluster: Path) -> list[str]:
    """The nodes that are done, as the station keeps them."""
    file = cluster / "state" / "picluster" / "station.json"
    return sorted(json.loads(file.read_text())["nodes"]) if file.exists() else []


def reported(cluster: Path) -> list[tuple[str, str]]:
    """Node and verdict of each card in the saved report."""
    report = json.loads((cluster / "build" / "station-report.json").read_text())
    return [(one["node"], one["verdict"]) for one in report["cards"]]
