"""`piimg flash --all` with fewer slots than nodes: round after round, and what is kept of it."""

import ctypes
import errno
import json
import os
import resource
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.card.rounds import Rounds
from imagebuilder.card.source import HEAD
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import carried
from imagebuilder.device.inventory import Candidate, present, survey
from tests.integration.card.conftest import MakeCard
from tests.integration.card.test_terminal import Terminal, replace_link
from tests.integration.card.test_write import head
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long

IN_OPEN = 0x20  # inotify(7)


@contextmanager
def flashing(cluster: Path, *arguments: object) -> Iterator[Terminal]:
    """``piimg flash`` at a terminal."""
    window = Terminal(cluster, "flash", *arguments)
    try:
        yield window
    finally:
        window.process.kill()
        window.process.wait()


@contextmanager
def no_more_files() -> Iterator[None]:
    """Within, this process may open no file: the kernel says EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def put_in(slot: Disk, file: Path) -> None:
    """Take the card out of a slot and put the one whose bytes are in ``file`` into it."""
    subprocess.run(["losetup", "--detach", slot.node], check=True)
    attach = ["losetup", "--direct-io=on", str(slot.node), str(file)]
    wait_until(
        lambda: subprocess.run(attach, check=False, capture_output=True).returncode == 0,
        otherwise=lambda: f"{slot.node} is in use",
    )


def saved(cluster: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Node and verdict of each card in the saved report, and the nodes that have none."""
    report = json.loads((cluster / "build" / "flash-report.json").read_text())
    return [(one["node"], one["verdict"]) for one in report["cards"]], report["remaining"]


@pytest.mark.parametrize("options", [[], ["--yes"], ["--yes", "--no-verify"]])
def test_a_card_of_this_run_that_is_put_back_is_left_alone(
    cluster: Path, card: Disk, tmp_path: Path, options: list[str]
) -> None:
    file, blank = Path(card.backing), tmp_path / "blank"
    blank.touch()
    os.truncate(blank, card.size)
    with flashing(cluster, "--all", card.node, "--virtual", *options) as window:
        if not options:
            window.wait_for("Erase this card?")
            window.type("y\n")
        window.wait_for("Put the next cards in")
        put_in(card, file)
        try:
            window.wait_for(f"{card.node} carries master, which is done: take it out")
            assert window.hear(4).strip() == ""  # no question, and nothing done
            assert carried(card.node).node == "master"
            put_in(card, blank)
            window.wait_for("Erase this card?")  # --yes was said of other cards
            window.hear(1)
            window.type("n\n")
            assert window.end()[0] == 3
            assert head(card) == bytes(HEAD)
        finally:
            put_in(card, file)
    assert carried(card.node).node == "master"
    verdict = "unverified" if "--no-verify" in options else "good"
    assert saved(cluster) == ([("master", verdict)], ["worker1", "worker2"])


@contextmanager
def second_round(cluster: Path, cards: list[Disk], slot: Path) -> Iterator[Terminal]:
    """The master's card is good, and the next one can be put in."""
    slot.symlink_to(cards[0].node)
    with flashing(cluster, "--all", slot, "--virtual", "--yes") as window:
        window.wait_for("Put the next cards in")
        yield window


KEPT = ([("master", "good")], ["worker1", "worker2"])


@pytest.mark.parametrize("way", ["Ctrl-C", "Ctrl-D", "SIGTERM"])
def test_an_interrupt_at_a_later_question_keeps_what_is_done(
    cluster: Path, make_card: MakeCard, tmp_path: Path, way: str
) -> None:
    cards, slot = [make_card(), make_card()], tmp_path / "slot"
    with second_round(cluster, cards, slot) as window:
        replace_link(slot, cards[1].node)
        window.wait_for("Erase this card?")
        window.hear(1)
        if way == "Ctrl-D":
            window.type("\x04")
        else:
            window.process.send_signal(signal.SIGINT if way == "Ctrl-C" else signal.SIGTERM)
        status, said = window.end()
    assert status == 130, said
    assert "nodes without a good card: worker1, worker2" in said and "Traceback" not in said
    assert saved(cluster) == KEPT
    assert head(cards[1]) == bytes(HEAD)


def test_a_terminal_that_goes_away_leaves_the_report(
    cluster: Path, make_card: MakeCard, tmp_path: Path
) -> None:
    cards, slot = [make_card(), make_card()], tmp_path / "slot"
    with second_round(cluster, cards, slot) as window:
        os.close(window.main)  # what is printed from now on is an OSError
        replace_link(slot, cards[1].node)
        assert window.process.wait(20) == 1
    assert saved(cluster) == KEPT
    assert head(cards[1]) == bytes(HEAD)


def test_ctrl_c_before_there_was_any_card_leaves_the_last_report(cluster: Path, root: None) -> None:
    if any(not one.refusals for one in survey(present((), virtual=False), virtual=False)):
        pytest.skip("there is a real card in a slot of this machine")
    report = cluster / "build" / "flash-report.json"
    report.write_text("of the last run")
    with flashing(cluster, "--all") as window:
        window.wait_for("Put the next cards in")
        window.hear(1)
        window.process.send_signal(signal.SIGINT)
        status, said = window.end()
    assert (status, "interrupted" in said) == (130, True), said
    assert report.read_text() == "of the last run"


def test_every_slot_that_was_used_is_looked_at(cluster: Path, make_card: MakeCard, tmp_path: Path) -> None:
    """The kernel sees a new card in some readers only when the device is opened."""
    cards, slot = [make_card(), make_card()], tmp_path / "slot"
    with second_round(cluster, cards, slot) as window:
        replace_link(slot, cards[1].node)
        window.wait_for("Erase this card?")
        window.hear(1)
        window.type("y\n")
        window.wait_for("Nodes without a good card: worker2.")
        assert [is_opened(card.node, 5) for card in cards] == [True, True]


def is_opened(device: Path, seconds: float) -> bool:
    """Whether anybody opens ``device`` within ``seconds``."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(handle, os.fsencode(device), IN_OPEN) > 0, ctypes.get_errno()
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def test_trouble_of_the_host_while_waiting_is_waited_out(card: Disk) -> None:
    errors: list[int | None] = []

    def look() -> list[Candidate]:
        try:
            return survey([card], virtual=True)
        except OSError as error:
            errors.append(error.errno)
            raise

    found: list[Candidate] = []
    rounds = Rounds(["worker1"], "", look, lambda _: None)
    rounds.look()
    waiting = threading.Thread(target=lambda: found.extend(rounds.next_cards()))
    with no_more_files():
        waiting.start()
        wait_until(lambda: len(errors) >= 2)
    waiting.join(20)
    assert errors and set(errors) == {errno.EMFILE}
    assert [one.disk for one in found] == [card]
