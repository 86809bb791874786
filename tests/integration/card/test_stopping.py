"""Ctrl-C while cards are written, at a real terminal: once each card ends well, twice piimg ends at once."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.cli.stop_signals import SIGNALS
from imagebuilder.device.discovery import Disk, slot_order
from tests.integration.card.conftest import MIB
from tests.integration.card.rig import Rig, below
from tests.integration.card.running import NODES, command, environment
from tests.integration.card.test_terminal import Terminal
from tests.integration.card.test_write import head
from tests.support.terminal import Window
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long

STOPPING = "stopping after the current block; repeat to stop at once"


def packed(text: str) -> str:
    """``text`` without white space: a window breaks lines anywhere."""
    return "".join(text.split())


class Flash:
    """piimg that flashes cards, one a node, in a window of 80 columns."""

    def __init__(self, cluster: Path, cards: list[Disk], *more: str) -> None:
        self.window = Window(80, 24)
        devices = [str(card.node) for card in cards]
        self.process = subprocess.Popen(
            command(*more, "flash", "--all", "--virtual", "--yes", *devices),
            cwd=cluster,
            env={**environment(), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self.window.side,
            stderr=self.window.side,
            start_new_session=True,
        )
        os.close(self.window.side)

    def at_work(self, count: int) -> list[str]:
        """Wait until ``count`` cards are being written; give the screen."""
        return self.window.wait_for(lambda lines: sum(" write " in line for line in lines) == count)

    def read_until(self, holds: Callable[[], bool], patience: float = 30.0) -> None:
        """Read what it prints until ``holds``."""
        deadline = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < deadline and self.process.poll() is None, self.window.everything
            self.window.read(0.1)

    def end(self) -> tuple[int, str]:
        """Wait for its end: the exit code, and everything that was on the screen."""
        while self.process.poll() is None:
            self.window.read(0.1)
        while self.window.read(0.1):
            pass
        return self.process.returncode, "\n".join(self.window.everything)


@contextmanager
def flashing(cluster: Path, cards: list[Disk], *more: str) -> Iterator[Flash]:
    flash = Flash(cluster, cards, *more)
    try:
        yield flash
    finally:
        flash.process.kill()
        flash.process.wait()
        os.close(flash.window.main)


def test_bars_of_real_cards(cluster: Path, make_faulty: Rig) -> None:
    cards = sorted([make_faulty(delay="0.05") for _ in NODES], key=slot_order)
    with flashing(cluster, cards) as flash:
        lines = flash.at_work(len(NODES))
        status, said = flash.end()
    rows = [line for line in lines if line.startswith(NODES)]
    assert [line.split()[:3] for line in rows] == [
        [node, card.slot, "write"] for node, card in zip(NODES, cards, strict=True)
    ]
    assert len({line.index("|") for line in rows}) == 1
    assert len([line for line in lines if line.startswith("all 3")]) == 1
    assert status == 0
    done = re.compile(rf"({'|'.join(NODES)}) +loop\d+ +done +100% .* in 0:\d\d")
    ends = [line for line in said.splitlines() if done.match(line)]
    assert len(ends) == len(NODES), said  # each once: nothing of an earlier painting is left


@pytest.mark.parametrize("number", SIGNALS)
def test_once_each_card_ends_and_its_state_is_reported(
    cluster: Path, make_faulty: Rig, number: signal.Signals
) -> None:
    cards = [make_faulty(delay="0.1") for _ in NODES]
    with flashing(cluster, cards) as flash:
        flash.at_work(len(NODES))
        flash.process.send_signal(number)
        status, said = flash.end()
    assert status == 130
    assert said.count(STOPPING) == 1 and "Traceback" not in said
    report = json.loads((cluster / "build" / "flash-report.json").read_text())
    assert [(one["node"], one["verdict"]) for one in report["cards"]] == [
        (node, "interrupted") for node in NODES
    ]
    assert packed("it does not boot until it is flashed again") in packed(said)
    assert all(head(card)[510:512] == bytes(2) for card in cards)
    shown = [line for line in said.splitlines() if line.startswith(NODES) and " stopped " in line]
    assert len(shown) == len(NODES)


@pytest.mark.parametrize("mode", ["bar", "plain", "json"])
def test_twice_it_ends_at_once(cluster: Path, make_faulty: Rig, mode: str) -> None:
    """Each card holds a write until piimg has stopped at once: none can end between the two signals."""
    stall: dict[str, str | int] = {"fault": "stall-on-write", "stall": "1000", "after": 5 * MIB}
    cards = sorted([make_faulty(**stall) for _ in NODES], key=slot_order)
    with flashing(cluster, cards, "--progress", mode) as flash:
        try:
            flash.read_until(lambda: all(below(card).with_name("stalled").exists() for card in cards))
            flash.process.send_signal(signal.SIGINT)
            flash.window.wait_for(lambda lines: packed(STOPPING) in packed("".join(lines)))
            flash.process.send_signal(signal.SIGINT)
            flash.window.wait_for(lambda lines: packed("stopped at once") in packed("".join(lines)))
        finally:
            for card in cards:  # the kernel does not let go of a process that waits for a card
                below(card).with_name("switch").unlink()
        status, said = flash.end()
    assert status == 130
    slots = ", ".join(f"{node} {card.slot}" for node, card in zip(NODES, cards, strict=True))
    assert said.rstrip().splitlines()[-1] == f"piimg: stopped at once; not finished: {slots}"
    assert not (cluster / "build" / "flash-report.json").exists()
    assert all(head(card)[510:512] == bytes(2) for card in cards)


def test_a_wish_to_stop_that_comes_too_late_changes_nothing_but_asks_for_no_more(
    cluster: Path, make_faulty: Rig
) -> None:
    """One card of three nodes: stopped, it does not ask for the next card."""
    card = make_faulty(delay="0.1")
    with flashing(cluster, [card]) as flash:
        flash.at_work(1)
        flash.process.send_signal(signal.SIGTERM)
        status, said = flash.end()
    assert status == 130 and "Put the next cards in" not in said


def test_once_the_cards_have_ended_nothing_cuts_the_report_off(cluster: Path, make_faulty: Rig) -> None:
    """The terminal is held (Ctrl-S) meanwhile: piimg waits in write(2), so there is time for it."""
    cards = [make_faulty(delay="0.1") for _ in NODES]
    with flashing(cluster, cards) as flash:
        flash.at_work(len(NODES))
        os.write(flash.window.main, b"\x13")
        wait_until(lambda: all(head(card)[510:512] == b"\x55\xaa" for card in cards), 60, pause=0.2)
        history = cluster / "state" / "picluster" / "cards.jsonl"
        wait_until(lambda: history.read_text().count('"verdict"') == len(NODES), 20)
        flash.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        os.write(flash.window.main, b"\x11")
        status, said = flash.end()
    assert status == 0, said
    assert said.count(" good") == len(NODES) and "interrupted" not in said
    report = json.loads((cluster / "build" / "flash-report.json").read_text())
    assert [one["verdict"] for one in report["cards"]] == ["good"] * len(NODES)


@pytest.mark.parametrize("twice", [False, True])
def test_verify_of_a_card_that_stalls(cluster: Path, make_faulty: Rig, images: Path, twice: bool) -> None:
    stall = "1000" if twice else "0.3"
    card = make_faulty(fault="stall-on-read", stall=stall, after=5 * MIB)
    with below(card).open("r+b") as stream:
        stream.write((images / "worker1.img").read_bytes())
    window = Terminal(cluster, "--progress", "json", "verify", card.node, "--node", "worker1")
    try:
        window.wait_for('"event": "advanced"')
        window.hear(2 if twice else 0)
        window.process.send_signal(signal.SIGINT)
        window.wait_for(STOPPING)
        if twice:
            window.process.send_signal(signal.SIGINT)
            window.wait_for(f"piimg: stopped at once; not finished: worker1 {card.slot}", 2)
            below(card).with_name(
                "switch"
            ).unlink()  # the kernel does not let go of a process that waits for it
        status, said = window.end()
    finally:
        window.process.kill()
        window.process.wait()
    assert status == 130, said
    assert "Traceback" not in said and ("it is unchanged" in said) is not twice
