"""`piimg station` with nobody to ask: what it does by itself, and what it knows when it is started again."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from imagebuilder.card.source import HEAD
from imagebuilder.device.identity import Carried, carried, parse_unfinished
from imagebuilder.system.process import run
from tests.integration.card.conftest import MIB
from tests.integration.card.manning import READY, Cards, holds, remembered, reported, start, station
from tests.integration.card.rig import Rig
from tests.integration.card.running import NODES, TOP, command, environment
from tests.integration.card.slots import Slot, slots
from tests.integration.card.test_station import with_files, writing

pytestmark = pytest.mark.slots


@pytest.fixture
def two(root: None) -> Iterator[list[Slot]]:
    """Two empty slots."""
    with slots(2) as made:
        yield made


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    """``cards()`` is a new card."""
    return Cards(tmp_path)


def refused(cluster: Path, *options: str) -> str:
    """What a station says that does not even begin."""
    done = subprocess.run(
        command("station", "--virtual", *options),
        cwd=cluster,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "there is no terminal to ask at"),
        (["--slot=loop9999"], "there is no terminal to ask at"),
        (["--yes"], "with --yes the slots must be named"),
        (["--yes", "--slot=loop9999", "--node-from=ask"], "there is no terminal to ask at"),
        (["--yes", "--slot=loop9999", "--node-from=slot"], "either every slot has its node, or none"),
        (["--yes", "--slot=loop9999=master", "--slot=loop9998"], "either every slot has its node, or none"),
        (["--yes", "--slot=loop9999=master", "--node-from=next"], "either every slot has its node, or none"),
        (["--yes", "--slot=loop9999=worker7"], "the manifest has no node worker7"),
        (["--yes", "--slot=loop9999=master", "--slot=loop9998=master"], "two slots are for the same node"),
        (["--yes", "--slot=loop9999", "--slot=loop9999"], "a slot was named twice"),
    ],
)
def test_what_is_not_begun_with_nobody_there(cluster: Path, options: list[str], why: str) -> None:
    assert why in refused(cluster, *options)


def test_every_node_must_be_built(cluster: Path) -> None:
    (cluster / "build" / "worker2.bmap").unlink()
    assert "worker2 is not built" in refused(cluster, "--yes", "--slot=loop9999")


def test_only_what_nobody_may_miss_is_erased(cluster: Path, two: list[Slot], cards: Cards) -> None:
    """A card of this cluster and an empty one are. What holds files or another cluster's node is not."""
    image = cluster / "build" / "worker1.img"
    other = cards(64 * MIB)
    run(["cp", image, other])
    foreign = json.dumps({"node": "worker1", "cluster": "elsewhere"}).encode()
    run(["mcopy", "-o", "-i", f"{other}@@{4 * MIB}", "-", "::piimg.json"], data=foreign)
    files, ours, empty = with_files(cards(64 * MIB)), cards(64 * MIB), cards()
    run(["cp", image, ours])
    stick, deleted = cards(64 * MIB), cards(64 * MIB)
    run(["sfdisk", "--quiet", stick], data=b"label: dos\nstart=4MiB,type=c\n")
    run(["mkfs.vfat", "-F", "16", "--offset", str(4 * MIB // 512), stick, str(60 << 10)])
    identity = json.dumps({"node": "worker1", "cluster": "picluster"}).encode()
    run(["mcopy", "-i", f"{stick}@@{4 * MIB}", "-", "::piimg.json"], data=identity)
    run(["mcopy", "-i", f"{stick}@@{4 * MIB}", "-", "::DSC00001.JPG"], data=b"a photo")
    run(["sfdisk", "--quiet", deleted], data=b"label: dos\n")
    run(["mkfs.ext4", "-q", "-E", f"offset={16 * MIB}", deleted, "32M"])
    kept = (
        (files, "it holds an ext4 file system at byte 0"),
        (other, "it carries worker1 of elsewhere"),
        (stick, "it says that it carries worker1, but its partitions are not those of a node's card"),
        (deleted, "it holds an ext4 file system at byte 16777216 outside of any partition"),
    )
    before = [card.read_bytes() for card, _ in kept]
    with station(cluster, two, typing=False) as one:
        for card, why in kept:
            two[0].put(card)
            one.see(two[0].name, f"left alone: {why}", "and no user can be asked")
            two[0].take()
            one.shows(two[0], "put in a card")
        two[0].put(ours)
        one.see(two[0].name, "label it worker1")  # it keeps its node
        two[1].put(empty)
        one.see(two[1].name, "label it master")
        assert holds(two[1], cluster, "master")
    assert [card.read_bytes() for card, _ in kept] == before


def test_erase_is_said_beforehand(cluster: Path, two: list[Slot], cards: Cards) -> None:
    with station(cluster, two, "--erase", typing=False) as one:
        two[0].put(with_files(cards(64 * MIB)))
        one.see(two[0].name, "label it master")
        assert holds(two[0], cluster, "master")


def test_a_card_that_was_there_before_and_shows_up_again_is_left_alone(
    cluster: Path, two: list[Slot], cards: Cards, tmp_path: Path
) -> None:
    """As after a reset of its hub: the kernel takes it for another one. What is on it may be wanted."""
    card = cards(64 * MIB)
    run(["cp", cluster / "build" / "worker1.img", card])
    run(["cp", "--sparse=always", card, tmp_path / "copy"])
    two[0].put(card)
    with station(cluster, two, typing=False) as one:
        one.shows(two[0], "left alone: it was here before")
        one.window.settle(1)
        two[0].take()
        two[0].put(card)
        one.shows(two[0], "it carries worker1, and looks like the one that was here before")
        one.window.settle(2)
        assert card.read_bytes() == (tmp_path / "copy").read_bytes()
        two[0].take()
        two[1].put(card)  # into another slot: that was a hand
        one.see(two[1].name, "label it worker1")


def test_other_slots_are_none_of_its_business(cluster: Path, two: list[Slot], cards: Cards) -> None:
    with station(cluster, two[:1], typing=False) as one:
        other = cards()
        two[1].put(other)
        one.window.settle(4)
        assert start(other) == bytes(HEAD)
        assert not any(two[1].name in line for line in one.window.everything)


def test_a_killed_station_goes_on_where_it_was(
    cluster: Path, two: list[Slot], cards: Cards, make_faulty: Rig
) -> None:
    done, half = cards(), make_faulty.serve(delay="0.5")
    with station(cluster, two, "--erase", typing=False) as one:
        two[0].put(done)
        one.see(two[0].name, "label it master")
        two[1].put(half)
        one.window.wait_for(writing(1))
        one.process.kill()
        one.process.wait()
        assert parse_unfinished(start(two[1].node)) == Carried("worker1", "picluster")
        with station(cluster, two, typing=False) as again:
            again.see("master is done: on ")
            again.see("nodes without a card: worker1, worker2")
            again.shows(two[0], "left alone: it was here before")
            again.shows(two[1], "piimg was interrupted while writing it: take it out, then put it in again")
            again.window.settle(2)
            assert parse_unfinished(start(two[1].node)) == Carried("worker1", "picluster")
            two[1].take()
            again.shows(two[1], "put in a card")
            two[1].put(half)
            again.see(two[1].name, "label it worker1")
            assert holds(two[1], cluster, "worker1")
            two[0].take()
            two[0].put(done)
            again.shows(two[0], "left alone: it holds master, which is done")
            assert remembered(cluster) == ["master", "worker1"]
            assert reported(cluster) == [("worker1", "good")]


def test_a_card_that_was_cut_off_gets_its_node_in_whatever_slot(
    cluster: Path, two: list[Slot], cards: Cards, make_faulty: Rig
) -> None:
    half = make_faulty.serve(delay="0.5")
    (cluster / "state" / "picluster").mkdir(parents=True)
    options = [f"--slot={two[0].name}=worker2"]
    with station(cluster, two[:1], "--erase", *options, typing=False) as one:
        two[0].put(half)
        one.window.wait_for(writing(1))
        one.process.kill()
        one.process.wait()
    with station(cluster, two, typing=False) as again:
        two[1].put(half)
        again.see(two[1].name, "label it worker2")


def test_a_node_that_was_built_anew_is_written_anew(
    cluster: Path, two: list[Slot], cards: Cards, images: Path
) -> None:
    card = cards()
    with station(cluster, two, typing=False) as one:
        two[0].put(card)
        one.see(two[0].name, "label it master")
        two[0].take()
    changed = json.loads((cluster / "build" / "master.json").read_text()) | {"tree_digest": "1" * 64}
    (cluster / "build" / "master.json").unlink()
    (cluster / "build" / "master.json").write_text(json.dumps(changed))
    with station(cluster, two, typing=False) as again:
        again.see("nodes without a card: master, worker1, worker2")
        two[0].put(card)
        again.see(two[0].name, "label it master")


def test_when_all_is_done_nothing_is_begun_unless_anew(cluster: Path, two: list[Slot], cards: Cards) -> None:
    given = [cards() for _ in NODES]
    with station(cluster, two, typing=False) as one:
        for card, node in zip(given, NODES, strict=True):
            two[0].put(card)
            one.see(two[0].name, f"label it {node}")
            if node != NODES[-1]:
                two[0].take()
                one.shows(two[0], "put in a card")
        assert one.end()[0] == 0
    done = subprocess.run(
        command("station", "--virtual", "--yes", f"--slot={two[0].name}"),
        cwd=cluster,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "every node has its card" in done.stderr, done.stderr
    with station(cluster, two, "--again", typing=False) as one:
        one.see("nodes without a card: master, worker1, worker2")
        two[0].put(given[1])
        one.see(two[0].name, "label it worker1")
    assert remembered(cluster) == ["worker1"]
    assert [carried(card).node for card in given] == list(NODES)


def test_a_station_for_one_node_forgets_nothing_of_the_others(
    cluster: Path, two: list[Slot], cards: Cards
) -> None:
    turns: list[tuple[str, list[str]]] = [("master", []), ("worker1", []), ("master", ["--again"])]
    for node, options in turns:
        with station(cluster, two[:1], f"--slot={two[0].name}={node}", *options, typing=False) as one:
            two[0].put(cards())
            one.see(two[0].name, f"label it {node}")
            assert one.end()[0] == 0
    assert remembered(cluster) == ["master", "worker1"]


@pytest.mark.parametrize(
    "text", ["{}", "[1", '{"format": 2, "nodes": {}}', '{"format": 1, "nodes": {"a": 1}}']
)
def test_a_state_that_is_not_ours_is_reported(cluster: Path, text: str) -> None:
    file = cluster / "state" / "picluster" / "station.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    done = subprocess.run(
        command("station", "--yes", "--slot=loop9999"),
        cwd=cluster,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "it is not a valid file of piimg station" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_program_sees(cluster: Path, two: list[Slot], cards: Cards) -> None:
    """Every line of --progress json is an event, and what is to be done at a slot is a message about it."""
    schema = json.loads((TOP / "docs" / "schema" / "events.schema.json").read_text())
    said = cluster / "said"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            command("--progress", "json", "station", "--virtual", "--yes", f"--slot={two[0].name}=worker1"),
            cwd=cluster,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        for _ in range(200):
            if READY in said.read_text():
                break
            subprocess.run(["sleep", "0.1"], check=True)
        two[0].put(cards())
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in said.read_text().splitlines() if line.startswith("{")]
    for line in lines:
        Draft202012Validator(schema).validate(line)
    about = [line for line in lines if line["event"] == "message" and line["subject"] == two[0].name]
    assert about[0]["text"] == "put in a card for worker1"
    assert about[-1]["text"] == "good: take it out, and label it worker1"
    shown = {"slot": two[0].name, "node": "worker1", "device": str(two[0].node), "state": "done"}
    assert about[-1]["data"] == {**shown, "verdict": "good", "why": None, "wanted": None}
    assert about[0]["data"]["wanted"] == "worker1"
    states = [line["data"]["state"] for line in about]
    assert states == ["empty", "settling", "done"]
    two[0].take()
