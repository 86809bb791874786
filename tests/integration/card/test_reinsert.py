"""`piimg flash --reinsert`: cards are taken out and put in again, and judged by what is on them then."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.card.reinsert import Returns, may_hold_writes, second
from imagebuilder.card.report import Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.card.write import FlashJob, Target
from imagebuilder.cli.verdicts import SUSPECT, describe
from imagebuilder.device.discovery import Disk
from imagebuilder.system.process import run
from tests.integration.card.conftest import MIB, ROOT, MakeCard
from tests.integration.card.rig import Rig
from tests.integration.card.running import command, environment
from tests.integration.card.test_commands import piimg
from tests.integration.card.test_remembering import MINUTE
from tests.integration.card.test_remembering import reported as listed
from tests.integration.card.test_rounds import flashing, put_in
from tests.integration.card.test_terminal import Terminal
from tests.unit.history.making import READER, report_of

pytestmark = pytest.mark.slots

ASKED = "and put it in again; then it is read once more"
SIZE = 64 * MIB


@contextmanager
def until_asked(cluster: Path, *arguments: object) -> Iterator[Terminal]:
    """``piimg flash --reinsert`` that waits for the card to be taken out and put in again."""
    with flashing(cluster, *arguments, "--virtual", "--yes", "--reinsert") as window:
        window.wait_for(ASKED)
        yield window


def reported(cluster: Path) -> list[dict[str, Any]]:
    document = json.loads((cluster / "build" / "flash-report.json").read_text())
    assert isinstance(document["cards"], list)
    return document["cards"]


def one_of(cluster: Path) -> tuple[str, object]:
    """Verdict of the one card in the saved report, and whether it was put in again."""
    (report,) = reported(cluster)
    return report["verdict"], report["reinserted"]


def lose(file: Path, before: Path, count: int) -> None:
    """The power goes: the first ``count`` bytes of a card are as they were before."""
    with before.open("rb") as old, file.open("r+b") as card:
        card.write(old.read(count))


@pytest.mark.parametrize("options", [[], ["--no-verify"]])
def test_a_card_that_kept_everything_is_good(cluster: Path, card: Disk, options: list[str]) -> None:
    with until_asked(cluster, card.node, "-n", "worker1", *options) as window:
        assert window.hear(1).count(str(card.node)) <= 1  # it waits for as long as the card stays
        put_in(card, Path(card.backing))
        status, said = window.end()
    assert status == 0, said
    assert one_of(cluster) == ("good", True)
    assert listed(cluster, card)["warnings"] == []


def test_a_card_that_lost_what_its_cache_held_is_bad(
    cluster: Path, make_card: MakeCard, tmp_path: Path
) -> None:
    """It comes out with the node that it carried before, bootable, and was called good."""
    card, before = make_card(size=SIZE), tmp_path / "before"
    assert piimg(cluster, "flash", card.node, "-n", "worker1", "--virtual", "-y").returncode == 0
    shutil.copy(card.backing, before)
    with until_asked(cluster, card.node, "-n", "worker2") as window:
        subprocess.run(["losetup", "--detach", card.node], check=True)
        lose(Path(card.backing), before, 8 * MIB)
        put_back(card)
        status, said = window.end()
    assert status == 3, said
    assert one_of(cluster) == ("bad", True)
    assert "the written data was lost without power" in said
    (warning,) = listed(cluster, card)["warnings"]
    assert re.fullmatch(rf"this card was bad on {MINUTE} at byte \d+", warning)
    # From now on it is known for it.
    done = piimg(cluster, "flash", card.node, "-n", "worker2", "--virtual", "-y", "--again", "--json")
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)["cards"]
    assert (report["verdict"], report["reinserted"], report["suspect_cache"]) == ("good", None, True)
    done = piimg(cluster, "flash", card.node, "-n", "worker2", "--virtual", "-y", "--again")
    assert f"{card.node}: {SUSPECT}" in done.stdout


def put_back(card: Disk) -> None:
    """Attach the card's own file at its node."""
    subprocess.run(["losetup", "--direct-io=on", card.node, card.backing], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_it_waits_leaves_the_first_verdict(
    cluster: Path, card: Disk, number: signal.Signals
) -> None:
    with until_asked(cluster, card.node, "-n", "worker1") as window:
        window.process.send_signal(number)
        status, said = window.end()
    assert status == 130, said
    assert one_of(cluster) == ("good", False)


def test_without_a_terminal_it_waits_too(cluster: Path, card: Disk) -> None:
    words = ["flash", str(card.node), "-n", "worker1", "--virtual", "--yes", "--reinsert", "--json"]
    with subprocess.Popen(
        command(*words),
        cwd=cluster,
        env=environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert any(f"{card.node}: take it out" in line for line in process.stderr)
        put_in(card, Path(card.backing))
        said, _ = process.communicate(timeout=30)
    (report,) = json.loads(said)["cards"]
    assert (process.returncode, report["verdict"], report["reinserted"]) == (0, "good", True)


def test_cards_may_come_back_into_each_others_slots(cluster: Path, make_card: MakeCard) -> None:
    cards = [make_card(), make_card(), make_card()]
    devices = [card.node for card in cards]
    with until_asked(cluster, "--all", *devices) as window:
        window.wait_for(ASKED)
        window.wait_for(ASKED)
        first, second_, third = cards
        for one in cards[:2]:
            subprocess.run(["losetup", "--detach", one.node], check=True)
        put_back(replace(first, backing=second_.backing))
        put_back(replace(second_, backing=first.backing))
        put_in(third, Path(third.backing))
        status, said = window.end()
    for one in cards[:2]:
        put_in(one, Path(one.backing))  # or its fixture would not detach it
    assert status == 0, said
    found = [(one["node"], one["device"], one["verdict"], one["reinserted"]) for one in reported(cluster)]
    nodes = [("master", second_), ("worker1", first), ("worker2", third)]
    assert found == [(node, str(disk.node), "good", True) for node, disk in nodes]


@pytest.mark.parametrize("lost", [False, True])
def test_between_two_rounds_it_is_not_taken_for_another_card(
    cluster: Path, make_card: MakeCard, tmp_path: Path, lost: bool
) -> None:
    card, empty = make_card(size=SIZE), tmp_path / "empty"
    shutil.copy(card.backing, empty)
    with until_asked(cluster, "--all", card.node) as window:
        subprocess.run(["losetup", "--detach", card.node], check=True)
        if lost:
            lose(Path(card.backing), empty, 8 * MIB)
        put_back(card)
        window.wait_for(f"Nodes without a good card: {'master, ' if lost else ''}worker1, worker2.")
        said = window.hear(4)
        assert "Erase" not in said
        window.process.send_signal(signal.SIGINT)
        assert window.end()[0] == 130
    assert one_of(cluster) == ("bad" if lost else "good", True)


def test_the_kernel_without_a_number_of_the_medium(card: Disk, source: ImageSource) -> None:
    """Before Linux 5.15 a card must be seen to be out."""
    old = replace(card, diskseq=None)
    job = FlashJob(disk=old, source=source, target=Target("worker1", ""))
    returns = Returns([job], [old])
    assert returns.look([old], virtual=True) == []
    assert returns.look([], virtual=True) == []
    assert returns.look([old], virtual=True) == [(job, old)]
    assert returns.waiting == []


def test_what_is_another_card_is_waited_out(make_card: MakeCard, source: ImageSource) -> None:
    card, smaller, other = make_card(), make_card(size=SIZE), make_card()
    job = FlashJob(disk=card, source=source, target=Target("worker1", ""))
    returns = Returns([job], [card, other])
    assert returns.look([smaller, other], virtual=True) == []
    assert returns.look([other, replace(smaller, slot=card.slot)], virtual=True) == []
    in_again = replace(card, diskseq=10**9)
    assert returns.look([in_again], virtual=False) == []  # a loop device is no card
    returns = Returns([job], [card, other])
    assert returns.look([in_again, other], virtual=True) == [(job, in_again)]


@pytest.mark.parametrize("order", [1, -1])
def test_the_slot_counts_before_the_node(
    make_card: MakeCard, images: Path, source: ImageSource, order: int
) -> None:
    """Another card of the node and the size, as from an earlier flash, is not the one that was out."""
    card, older = make_card(), make_card()
    for disk in (card, older):
        run(["dd", f"if={images / 'worker1.img'}", f"of={disk.node}", "bs=1M", "conv=fsync", "status=none"])
        run(["blockdev", "--flushbufs", disk.node])
    job = FlashJob(disk=card, source=source, target=Target("worker1", ""))
    returns = Returns([job], [])
    assert returns.look([older, card][::order], virtual=True) == [(job, card)]


def test_two_cards_that_swap_their_slots_are_known_by_their_nodes(
    make_card: MakeCard, images: Path, source: ImageSource
) -> None:
    cards = [make_card(), make_card()]
    jobs = [
        FlashJob(disk=card, source=source, target=Target(node, ""))
        for card, node in zip(cards, ("worker1", "worker2"), strict=True)
    ]
    for disk, node in zip(cards, ("worker2", "worker1"), strict=True):
        run(["dd", f"if={images / f'{node}.img'}", f"of={disk.node}", "bs=1M", "conv=fsync", "status=none"])
        run(["blockdev", "--flushbufs", disk.node])
    found = Returns(jobs, []).look(cards, virtual=True)
    assert sorted((job.target.node, disk.node) for job, disk in found) == [
        ("worker1", cards[1].node),
        ("worker2", cards[0].node),
    ]


def test_a_card_that_takes_more_than_it_gives_is_suspected() -> None:
    well = report_of(READER, Verdict.GOOD)
    much = replace(well, written=100 * MIB, read_back=100 * MIB)
    assert may_hold_writes(replace(much, write_rate=25e6, read_rate=20e6))
    assert not may_hold_writes(replace(much, write_rate=23e6, read_rate=20e6))
    assert not may_hold_writes(replace(much, write_rate=25e6))  # never read
    assert not may_hold_writes(replace(much, written=63 * MIB, write_rate=90e6, read_rate=20e6))
    said = describe([replace(well, suspect_cache=True)])
    assert f"{well.device}: {SUSPECT}" in said
    assert SUSPECT not in describe([replace(well, suspect_cache=True, reinserted=True)])


def test_the_second_report_has_what_was_written_and_the_new_verdict() -> None:
    first = replace(report_of(READER, Verdict.GOOD), written=5, write_rate=7.0)
    bad = replace(report_of(READER, Verdict.BAD, "wrong", ROOT), device="/dev/sdx", read_back=9)
    found = second(first, bad)
    assert (found.verdict, found.error, found.offset, found.device) == (
        Verdict.BAD,
        "wrong",
        ROOT,
        "/dev/sdx",
    )
    assert (found.written, found.write_rate, found.reinserted) == (5, 7.0, True)
    assert second(first, replace(bad, verdict=Verdict.INTERRUPTED)) == replace(first, reinserted=False)


def test_a_card_that_is_bad_at_once_is_not_waited_for(cluster: Path, make_faulty: Rig) -> None:
    card = make_faulty(fault="lost-write", at=ROOT + 4 * MIB)
    words = ("flash", card.node, "-n", "worker1", "--virtual", "-y", "--reinsert")
    done = piimg(cluster, *words)
    assert done.returncode == 3
    assert ASKED not in done.stderr
    assert one_of(cluster) == ("bad", None)
