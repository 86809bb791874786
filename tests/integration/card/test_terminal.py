"""`piimg flash` at a real terminal: what it asks, and what it does with the answers."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.card.source import HEAD, open_source
from imagebuilder.device.discovery import Disk
from tests.integration.card.conftest import MIB, ROOT, MakeCard
from tests.integration.card.rig import Rig, bmaptool_agrees
from tests.integration.card.running import NODES, command, environment
from tests.integration.card.test_write import head


class Terminal:
    """piimg at a terminal: what it says, and what is typed."""

    def __init__(self, cluster: Path, *arguments: object) -> None:
        self.main, side = pty.openpty()
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=cluster,
            env=environment(),
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
        )
        os.close(side)
        self.said = ""

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Read until ``text`` was said; what was said before it is forgotten."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            ready, _, _ = select.select([self.main], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"it never said {text!r}: {self.said}"
            try:
                self.said += os.read(self.main, 65536).decode("utf-8", "replace")
            except OSError:
                pytest.fail(f"it ended without {text!r}: {self.said}")
        self.said = self.said.partition(text)[2]

    def hear(self, seconds: float) -> str:
        """What is said within ``seconds``."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.main], [], [], left)[0]:
                self.said += os.read(self.main, 65536).decode("utf-8", "replace")
        return self.said

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def end(self) -> tuple[int, str]:
        """The exit code, and what was said until then."""
        while True:
            try:
                data = os.read(self.main, 65536)
            except OSError:
                break
            if not data:
                break
            self.said += data.decode("utf-8", "replace")
        os.close(self.main)
        return self.process.wait(30), self.said


@pytest.fixture
def terminal(cluster: Path) -> Iterator[Callable[..., Terminal]]:
    """``terminal(arguments…)`` runs piimg at a terminal of its own."""
    opened: list[Terminal] = []

    def run(*arguments: object) -> Terminal:
        opened.append(Terminal(cluster, *arguments))
        return opened[-1]

    yield run
    for one in opened:
        one.process.kill()
        one.process.wait()


def test_the_answer_is_no_unless_it_is_yes(card: Disk, terminal: Callable[..., Terminal]) -> None:
    for answer, code in (("\n", 2), ("n\n", 2), ("y\n", 0)):  # docs/commands.md
        window = terminal("flash", card.node, "--node", "worker1", "--virtual")
        window.wait_for("Erase this card?")
        assert head(card) == bytes(HEAD)
        window.type(answer)
        status, said = window.end()
        assert status == code, said
    assert "good" in said
    assert head(card)[510:512] == b"\x55\xaa"


def test_what_was_typed_before_the_question_is_no_answer(
    card: Disk, terminal: Callable[..., Terminal]
) -> None:
    window = terminal("flash", card.node, "--node", "worker1", "--virtual")
    window.type("y\n")  # long before piimg has even started
    window.wait_for("Erase this card?")
    window.type("n\n")  # the answer, unless the earlier one was taken for it
    assert window.end()[0] == 2
    assert head(card) == bytes(HEAD)


def test_it_asks_which_node(card: Disk, terminal: Callable[..., Terminal]) -> None:
    window = terminal("flash", card.node, "--virtual")
    window.wait_for("Which node should it get?")
    window.type("worker2\n")
    window.wait_for("Erase this card?")
    window.type("y\n")
    status, said = window.end()
    assert status == 0
    assert "worker2" in said


def test_it_asks_for_the_next_card_until_all_are_done(
    cluster: Path,
    make_card: MakeCard,
    make_faulty: Rig,
    terminal: Callable[..., Terminal],
    tmp_path: Path,
) -> None:
    slot = tmp_path / "slot"  # a reader with one slot, into which one card after the other is put
    bad, *good = make_faulty(fault="lost-write", at=ROOT + 4 * MIB), *[make_card() for _ in NODES]
    slot.symlink_to(bad.node)
    window = terminal("flash", "--all", slot, "--virtual")
    missing = ("master, worker1, worker2", "worker1, worker2", "worker2")
    for nodes, card in zip(missing, good, strict=True):
        window.wait_for("Erase this card?")
        window.type("y\n")
        window.wait_for(f"Nodes without a good card: {nodes}.")
        replace_link(slot, card.node)
    window.wait_for("Erase this card?")
    window.type("y\n")
    status, said = window.end()
    assert status == 0, said
    assert said.count(" bad") == 1
    for node, card in zip(NODES, good, strict=True):
        assert bmaptool_agrees(open_source(cluster / "build" / f"{node}.img"), card)


def replace_link(link: Path, target: Path) -> None:
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    fresh.replace(link)


def test_ctrl_c_while_waiting_for_a_card(
    card: Disk, cluster: Path, terminal: Callable[..., Terminal]
) -> None:
    window = terminal("flash", "--all", card.node, "--virtual")
    window.wait_for("Erase this card?")
    window.type("y\n")
    window.wait_for("Put the next cards in")
    window.process.send_signal(signal.SIGINT)
    status, said = window.end()
    assert status == 130
    assert "nodes without a good card: worker1" in said
    assert json.loads((cluster / "build" / "flash-report.json").read_text())["remaining"] == [
        "worker1",
        "worker2",
    ]


def test_a_no_in_a_later_round_keeps_the_report_of_the_first(
    make_card: MakeCard, cluster: Path, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    slot = tmp_path / "slot"
    cards = [make_card(), make_card()]
    slot.symlink_to(cards[0].node)
    window = terminal("flash", "--all", slot, "--virtual")
    window.wait_for("Erase this card?")
    window.type("y\n")
    window.wait_for("Nodes without a good card: worker1, worker2.")
    replace_link(slot, cards[1].node)
    window.wait_for("Erase this card?")
    window.type("n\n")
    status, said = window.end()
    assert status == 3, said
    assert head(cards[1]) == bytes(HEAD)
    report = json.loads((cluster / "build" / "flash-report.json").read_text())
    assert [one["verdict"] for one in report["cards"]] == ["good"]
    assert report["remaining"] == ["worker1", "worker2"]


def test_with_yes_only_the_first_round_is_not_asked_about(
    make_card: MakeCard, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    name = tmp_path / "sdb"  # a device name that another disk takes over
    cards = [make_card(), make_card()]
    name.symlink_to(cards[0].node)
    window = terminal("flash", "--all", name, "--virtual", "--yes")
    window.wait_for("Put the next cards in")
    replace_link(name, cards[1].node)
    window.wait_for("Erase this card?")
    window.hear(1)
    window.process.send_signal(signal.SIGINT)
    status, said = window.end()
    assert status == 130, said
    assert head(cards[1]) == bytes(HEAD)


def test_an_image_that_is_read_first_is_shown_and_the_question_stays_whole(
    card: Disk, images: Path, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.img"  # without a block map
    plain.symlink_to(images / "worker1.img")
    window = terminal("--progress", "bar", "flash", card.node, "--image", plain, "--virtual")
    window.wait_for("plain.img done      100%")
    window.wait_for("Erase this card? [y/N]:")
    assert window.hear(1).strip() == ""  # no bar is painted over it
    window.type("n\n")
    assert window.end()[0] == 2
