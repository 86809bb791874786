"""`piimg station` at a real terminal, with real loop devices as cards that come and go."""

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.card.source import HEAD
from imagebuilder.device.identity import carried
from imagebuilder.system.process import run
from tests.integration.card.conftest import MIB, mounted
from tests.integration.card.manning import Cards, holds, remembered, reported, start, station
from tests.integration.card.rig import Rig
from tests.integration.card.running import NODES, command
from tests.integration.card.slots import Slot, slots

pytestmark = pytest.mark.slots


@pytest.fixture
def three(root: None) -> Iterator[list[Slot]]:
    """Three empty slots."""
    with slots(3) as made:
        yield made


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    """``cards()`` is a new card."""
    return Cards(tmp_path)


def with_files(card: Path) -> Path:
    """A card that somebody has files on."""
    run(["mkfs.ext4", "-q", "-F", card])
    return card


def writing(count: int) -> Callable[[list[str]], bool]:
    """Whether the screen says of so many cards that they are being written."""
    return lambda lines: sum(" write " in line for line in lines) == count


def test_each_card_that_is_put_in_gets_the_next_node(cluster: Path, three: list[Slot], cards: Cards) -> None:
    given = [cards() for _ in NODES]
    with station(cluster, three) as one:
        for slot in three:
            one.shows(slot, "put in a card")
        for slot, card, node in zip(three, given, NODES, strict=True):
            slot.put(card)
            one.see(slot.name, f"good: take it out, and label it {node}")
            assert holds(slot, cluster, node)
        status, said = one.end()
        assert one.echoes
    assert status == 0 and "Traceback" not in said
    assert remembered(cluster) == sorted(NODES)
    assert reported(cluster) == [(node, "good") for node in NODES]


def test_one_slot_is_enough(cluster: Path, three: list[Slot], cards: Cards) -> None:
    (slot, *_), given = three, [cards() for _ in NODES]
    with station(cluster, [slot]) as one:
        for card, node in zip(given, NODES, strict=True):
            slot.put(card)
            one.see(slot.name, f"label it {node}")
            if node != NODES[-1]:
                slot.take()
                one.shows(slot, "put in a card")
        assert one.end()[0] == 0
    assert [carried(card).node for card in given] == list(NODES)


def test_what_was_there_before_is_left_alone(cluster: Path, three: list[Slot], cards: Cards) -> None:
    before, (slot, other, _) = cards(), three
    slot.put(before)
    with station(cluster, three) as one:
        one.shows(slot, "left alone: it was here before the station started")
        other.put(cards())
        one.see(other.name, "label it master")
        one.window.settle(3)
        assert start(before) == bytes(HEAD)
        one.shows(slot, "left alone: it was here before the station started")
        slot.take()
        one.shows(slot, "put in a card")
        slot.put(before)  # now it is meant, and there is nothing on it
        one.see(slot.name, "label it worker1")
        one.interrupt()
        status, said = one.end()
    assert status == 130, said
    assert "nodes without a good card: worker2" in said


def test_what_somebody_may_miss_is_asked_about(cluster: Path, three: list[Slot], cards: Cards) -> None:
    (slot, *_), card = three, with_files(cards(64 * MIB))
    with station(cluster, three) as one:
        for answer in ("n\n", "\n", "nay\n", "y\n"):
            untouched = start(card)
            one.type("y\n")  # before there is a question
            slot.put(card)
            one.see(f"Erase {slot.node} ({slot.name}) for master? [y/N]")
            one.see(f"{slot.name}: it holds an ext4 file system at byte 0")
            one.window.settle(1.5)
            assert start(card) == untouched
            one.type(answer)
            if answer != "y\n":
                one.shows(slot, "left alone: nothing was written: take it out")
                assert start(card) == untouched
                slot.take()
                one.shows(slot, "put in a card")
                one.window.screen.reset()
                one.window.screen.history.top.clear()
        one.see(slot.name, "label it master")
        assert holds(slot, cluster, "master")


def test_what_is_typed_is_shown_and_can_be_fixed(cluster: Path, three: list[Slot], cards: Cards) -> None:
    slot = three[0]
    with station(cluster, three) as one:
        slot.put(with_files(cards(64 * MIB)))
        one.see("for master? [y/N]")
        one.window.settle(0.5)
        one.type("yxé")
        one.see("[y/N] yxé")
        one.type("\x7f\x08")
        one.window.settle(0.5)
        one.type("\n")
        one.see(slot.name, "label it master")


def test_a_question_goes_with_its_card(cluster: Path, three: list[Slot], cards: Cards) -> None:
    """And the next one waits for it."""
    (slot, other, _), first, second = three, with_files(cards(64 * MIB)), with_files(cards(65 * MIB))
    with station(cluster, three) as one:
        slot.put(first)
        one.see(f"Erase {slot.node} ({slot.name}) for master?")
        other.put(second)
        one.shows(other, "asking: it holds an ext4")
        one.window.settle(1)
        untouched = start(second)
        slot.take()
        one.see(f"Erase {other.node} ({other.name}) for worker1?")
        one.window.settle(0.5)
        assert start(second) == untouched
        one.type("y\n")
        one.see(other.name, "label it worker1")
        assert start(first)[1080:1082] == b"\x53\xef"  # ext4's magic: it is as it was


@pytest.mark.parametrize(
    ("options", "size", "why"),
    [
        ([], 47 * MIB, "it is too small: 49283072 bytes, and the node image has 50331648"),
        (["--read-only"], 64 * MIB, "it is write-protected"),
    ],
)
def test_a_card_that_may_not_be_written_to(
    cluster: Path, three: list[Slot], cards: Cards, options: list[str], size: int, why: str
) -> None:
    card, (slot, other, _) = cards(size), three
    with station(cluster, three) as one:
        slot.put(card, *options)
        one.see(slot.name, f"left alone: {why}")
        assert not any(card.read_bytes())
        other.put(cards())
        one.see(other.name, "label it master")  # its node was not used up


def test_a_card_in_use(cluster: Path, three: list[Slot], cards: Cards, tmp_path: Path) -> None:
    """The user mounted it by hand before the station looked: it is not taken from them."""
    card, slot = with_files(cards(64 * MIB)), three[0]
    with station(cluster, three) as one:
        slot.put(card)
        with mounted(slot.node, tmp_path / "mine") as point:
            one.see(slot.name, f"left alone: {slot.name} is mounted at {point}")
        untouched = start(card)
        one.window.settle(3)
        one.shows(slot, "left alone")
        assert start(card) == untouched


def test_what_a_desktop_mounted_is_unmounted(cluster: Path, three: list[Slot], cards: Cards) -> None:
    card, slot = with_files(cards(64 * MIB)), three[0]
    Path("/media").mkdir(exist_ok=True)
    with station(cluster, three) as one:
        slot.put(card)
        point = Path("/media") / f"piimg-test-{uuid.uuid4().hex}"
        with mounted(slot.node, point):
            one.see("for master? [y/N]")
            one.see(f"unmounted first: {point}")
            one.window.settle(0.5)
            assert os.path.ismount(point)
            one.type("y\n")
            one.see(slot.name, "label it master")
            assert not os.path.ismount(point)
        assert holds(slot, cluster, "master")


def test_a_card_that_is_done_is_left_alone_wherever_it_shows_up(
    cluster: Path, three: list[Slot], cards: Cards
) -> None:
    card, (slot, other, _) = cards(), three
    with station(cluster, three) as one:
        slot.put(card)
        one.see(slot.name, "label it master")
        for again in (slot, other):
            slot.take() if slot.is_full else None
            one.shows(slot, "put in a card")
            again.put(card)
            one.shows(again, "left alone: it holds master, which is done: take it out")
            assert holds(again, cluster, "master")
            again.take()
    assert remembered(cluster) == ["master"]


def test_the_node_of_a_slot(cluster: Path, three: list[Slot], cards: Cards) -> None:
    given = [cards(), cards()]
    options = [f"--slot={slot.name}={node}" for slot, node in zip(three, ("worker2", "master"), strict=False)]
    with station(cluster, three, *options) as one:
        one.shows(three[0], "put in a card for worker2")
        three[0].put(given[0])
        one.see(three[0].name, "label it worker2")
        three[0].take()
        one.shows(three[0], "worker2 is done")
        three[0].put(cards())
        one.shows(three[0], "left alone: worker2, the node of this slot, is done")
        three[1].put(given[1])
        one.see(three[1].name, "label it master")
        assert one.end()[0] == 0
    assert [carried(card).node for card in given] == ["worker2", "master"]


def test_it_asks_which_node(cluster: Path, three: list[Slot], cards: Cards) -> None:
    given = [cards() for _ in NODES]
    with station(cluster, three, "--node-from", "ask") as one:
        three[0].put(given[0])
        one.see("for which node? [name, or none]")
        one.window.settle(0.5)
        one.type("worker9\n")
        one.see("worker9 is not one of master, worker1, worker2")
        one.type("worker2\n")
        one.see(three[0].name, "label it worker2")
        three[1].put(given[1])
        one.see(f"Erase {three[1].node} ({three[1].name}) for which node?")
        one.window.settle(0.5)
        one.type("\n")
        one.shows(three[1], "left alone: nothing was written")
    assert [carried(card).node for card in given] == ["worker2", "", ""]


def test_cards_wait_for_their_turn(cluster: Path, three: list[Slot], cards: Cards, make_faulty: Rig) -> None:
    """One at a time. The first comes out bad, which is shown with the place; the second is good."""
    with station(cluster, three, "--jobs", "1", "--erase") as one:
        three[0].put(make_faulty.serve(fault="lost-write", at=24 * MIB, delay="0.5"))
        one.window.wait_for(writing(1))
        three[1].put(cards())
        one.shows(three[1], "waiting for its turn")
        one.see(three[0].name, "bad: take it out; has wrong data from byte 25165824 on")
        one.see(three[1].name, "good: take it out")
        assert holds(three[1], cluster, "worker1")
        one.interrupt()
        status, said = one.end()
    assert status == 130
    assert "use another card" in said
    assert sorted(reported(cluster)) == [("master", "bad"), ("worker1", "good")]


def test_a_spare_card_is_used_when_another_fails(
    cluster: Path, three: list[Slot], cards: Cards, make_faulty: Rig
) -> None:
    master_alone = "[[node]]".join((cluster / "cluster.toml").read_text().split("[[node]]")[:2])
    (cluster / "cluster.toml").write_text(master_alone)
    with station(cluster, three, "--erase") as one:
        three[0].put(make_faulty.serve(fault="lost-write", at=24 * MIB, delay="0.3"))
        one.window.wait_for(writing(1))
        three[1].put(cards())
        one.shows(three[1], "not needed unless another card fails")
        one.see(three[1].name, "label it master")
        assert one.end()[0] == 0
        assert holds(three[1], cluster, "master")
    assert reported(cluster) == [("master", "bad"), ("master", "good")]


def test_a_card_that_is_pulled_fails_alone(
    cluster: Path, three: list[Slot], cards: Cards, make_faulty: Rig
) -> None:
    pulled, other = (make_faulty.serve(delay="0.1") for _ in range(2))
    with station(cluster, three, "--erase") as one:
        three[0].put(pulled)
        three[1].put(other)
        one.window.wait_for(writing(2))
        make_faulty.pull(pulled)
        one.see(three[0].name, "failed: take it out")
        three[0].take()
        one.shows(three[0], "put in a card")
        three[0].put(cards())
        one.see(three[0].name, "good: take it out")
        one.see(three[1].name, "good: take it out")
    assert sorted(remembered(cluster)) == ["master", "worker1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wish_to_stop(cluster: Path, three: list[Slot], make_faulty: Rig, number: signal.Signals) -> None:
    with station(cluster, three, "--erase") as one:
        three[0].put(make_faulty.serve(delay="0.1"))
        one.window.wait_for(writing(1))
        one.process.send_signal(number)
        status, said = one.end()
        assert one.echoes
    assert status == 130 and "Traceback" not in said
    assert said.count("stopping after the current block; repeat to stop at once") == 1
    assert reported(cluster) == [("master", "interrupted")]
    assert "nodes without a good card: master, worker1, worker2" in said


def test_twice_it_ends_at_once(cluster: Path, three: list[Slot], make_faulty: Rig) -> None:
    with station(cluster, three, "--erase") as one:
        three[0].put(make_faulty.serve(delay="5"))
        one.window.wait_for(lambda lines: any("probe" in line or " write " in line for line in lines))
        one.interrupt()
        one.see("repeat to stop at once")
        one.interrupt()
        status, said = one.end(20)
        assert one.echoes
    assert status == 130
    assert f"piimg: stopped at once; not finished: {three[0].name} master" in said
    assert not (cluster / "build" / "station-report.json").exists()


def test_there_is_one_station_for_a_cluster(cluster: Path, three: list[Slot]) -> None:
    with station(cluster, three[:1]) as one:
        second = subprocess.run(
            command("station", "--virtual", "--yes", f"--slot={three[1].name}"),
            cwd=cluster,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (second.returncode, "another station of picluster is running" in second.stderr) == (1, True)
        one.interrupt()
        assert one.end(5)[0] == 130
    assert not remembered(cluster)
