"""The cluster that the pictures of the documents show: planned, its cards listed, written, looked at later.

Everything is real: the nodes are prepared from a specimen of Raspberry Pi OS, and the cards are loop devices
over servers that take their time for each write, as a card does.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from imagebuilder.base.cache import sha256_of
from tests.integration.card.conftest import CARD_SIZE
from tests.integration.card.rig import Rig
from tests.support.cluster import Place, command, make_place
from tests.support.picture import Picture, taken
from tests.support.terminal import Window

CARDS = 6
COLUMNS, ROWS = 80, 70
WRITTEN = 30  # percent that each card has when the picture is taken
DELAY = "0.05"  # seconds that a card takes for a write of at most 1 MiB


class Studio:
    """A cluster folder as in the tutorial, and terminals of 80 columns that piimg runs at."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.place = make_place(folder, folder / "cache")
        keys = folder / ".ssh"
        keys.mkdir(mode=0o700)
        (keys / "id_ed25519.pub").write_text(f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43} me\n")
        pin = f'url = "http://127.0.0.1/trixie.img"\nsha256 = "{sha256_of(base)}"\nrelease = "trixie"\n'
        (self.place.folder / "images.toml").write_text(f"[raspios-trixie-arm64-lite]\n{pin}")
        self.place.good("fetch", base)

    @property
    def env(self) -> Mapping[str, str]:
        others = ("COLUMNS", "LINES", "NO_COLOR", "PIIMG_PROGRESS")
        kept = {name: value for name, value in self.place.env.items() if name not in others}
        return {**kept, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "TZ": "UTC", "PAGER": "cat"}

    @contextmanager
    def running(self, shown: str, *words: str | Path) -> Iterator["Running"]:
        """piimg at a terminal that shows ``shown`` as the command line; killed at the end of the block."""
        window = Window(COLUMNS, ROWS)
        os.write(window.side, f"\x1b[1m$ {shown}\x1b[0m\r\n".encode())
        process = subprocess.Popen(
            command(*words), cwd=self.place.folder, env=self.env, start_new_session=True,
            stdin=window.side, stdout=window.side, stderr=window.side,
        )  # fmt: skip
        try:
            yield Running(window, process)
        finally:
            process.kill()
            process.wait()
            os.close(window.main)
            os.close(window.side)

    def picture(self, title: str, shown: str, *words: str | Path) -> Picture:
        """The screen when a command has ended."""
        with self.running(shown, *words) as one:
            one.end()
            return taken(one.window.screen, title)


class Running:
    """piimg at a terminal."""

    def __init__(self, window: Window, process: "subprocess.Popen[bytes]") -> None:
        self.window, self.process = window, process

    def see(self, wanted: Callable[[str], object], seconds: float = 120) -> None:
        """Read until the screen is as wanted."""
        for _ in range(int(seconds * 20)):
            if wanted("\n".join(self.window.lines)):
                return
            assert self.process.poll() is None, "\n".join(self.window.lines)
            self.window.read(0.05)
        raise AssertionError("\n".join(self.window.lines))

    def answer(self, question: str, text: str) -> None:
        """Type ``text`` once the question is there."""
        self.see(lambda screen: question in screen)
        self.window.settle(0.5)  # until what was typed before has been forgotten
        os.write(self.window.main, f"{text}\n".encode())

    def end(self, seconds: float = 120) -> None:
        """Read until piimg has ended, which must be well."""
        for _ in range(int(seconds * 20)):
            if self.process.poll() is not None:
                break
            self.window.read(0.05)
        while self.window.read(0.1):
            pass
        assert self.process.wait(1) == 0, "\n".join(self.window.lines)


def all_are_written(screen: str) -> bool:
    """Whether each of six cards is being written, and a part of it is done."""
    done = [int(percent) for percent in re.findall(r"^\S+ +loop\d+ +write +(\d+)%", screen, re.MULTILINE)]
    return len(done) == CARDS and min(done) >= WRITTEN


def make_cards(rig: Rig, delay: str = DELAY) -> list[Path]:
    """Six virtual cards, each of which takes its time for a write."""
    return [rig(announced=CARD_SIZE, delay=delay).node for _ in range(CARDS)]


def scenes(studio: Studio, rig: Rig) -> Mapping[str, Picture]:
    """Each picture by the name of its file, in the order of the tutorial."""
    made = {"plan": studio.picture("piimg plan: the cluster on one screen", "piimg plan", "plan")}
    cards = make_cards(rig)
    made["cards"] = studio.picture(
        "piimg cards: six cards, and a disk that is none", "sudo piimg cards --virtual", "cards", "--virtual"
    )
    shown = "sudo piimg flash --all --virtual $CARDS"
    with studio.running(shown, "flash", "--all", "--virtual", *cards) as one:
        one.answer("Erase these 6 cards?", "y")
        one.see(all_are_written)
        made["flash"] = taken(one.window.screen, "piimg flash --all: six cards are written at the same time")
        one.end()
        made["flashed"] = taken(one.window.screen, "piimg flash --all: six cards are written and read back")
    change(studio.place)
    made["status"] = studio.picture(
        "piimg status: an address was changed after the cards were written", "piimg status", "status"
    )
    return made


def change(place: Place) -> None:
    """What the user changes after the cards were written: the address of one node."""
    place.edit(r"10\.0\.0\.14", "10.0.0.24")
