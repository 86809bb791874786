"""`piimg cards`, `flash` and `verify` as a user runs them: real processes, loop devices, a real terminal."""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.card.source import HEAD, open_source
from imagebuilder.cli.main import main
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import Carried, parse_unfinished
from tests.integration.card.conftest import MIB, ROOT, MakeCard, MakePart, mounted
from tests.integration.card.rig import Rig, bmaptool_agrees
from tests.integration.card.running import NODES, by_images, command, environment
from tests.integration.card.test_write import flip, head
from tests.support import compatibility


@dataclass(frozen=True)
class Ended:
    """How a run of piimg ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def piimg(cluster: Path, *arguments: object) -> Ended:
    """Run piimg in the cluster folder with nobody at a terminal; forked from here, which is quick."""
    said = [cluster.parent / name for name in ("stdout", "stderr")]
    child = os.fork()
    if child == 0:
        os._exit(_child(cluster, said, [str(argument) for argument in arguments]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(status, *[path.read_text() for path in said])


def _child(cluster: Path, said: list[Path], arguments: list[str]) -> int:
    try:
        os.chdir(cluster)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(said, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w"))
        sys.argv = ["piimg", *by_images(arguments)]
        os.environ.pop("PIIMG_MANIFEST", None)
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def test_a_board_that_may_not_read_a_card_is_named_first(cluster: Path, card: Disk) -> None:
    manifest = cluster / "cluster.toml"
    manifest.write_text(manifest.read_text().replace('"pi-3b+"', '"cm4"'))
    done = piimg(cluster, "flash", card.node, "--node", "worker2", "--virtual", "--yes")
    assert done.returncode == 0, done.stderr
    assert "note: worker2: Compute Module 4 with eMMC cannot read a card" in done.stderr
    manifest.write_text("[")  # the images are built already
    done = piimg(cluster, "flash", card.node, "--image", "build/worker2.img", "--virtual", "--yes")
    assert "cannot read a card" not in done.stderr


def test_a_card_is_flashed_listed_and_verified(cluster: Path, card: Disk) -> None:
    done = piimg(cluster, "flash", card.node, "--node", "worker2", "--virtual", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (report,) = document["cards"]
    assert (report["verdict"], report["node"], report["device"]) == ("good", "worker2", str(card.node))
    assert json.loads((cluster / "build" / "flash-report.json").read_text())["cards"] == document["cards"]
    compatibility.check("report.json", document)

    listed = json.loads(piimg(cluster, "cards", "--virtual", "--json").stdout)["cards"]
    (found,) = [one for one in listed if one["device"] == str(card.node)]
    assert (found["node"], found["writable"], found["refusals"]) == ("worker2", True, [])
    assert f"{card.node}" in piimg(cluster, "cards", "--virtual").stdout
    assert f"{card.node} " not in piimg(cluster, "cards").stdout

    verified = piimg(cluster, "verify", card.node, "--node", "worker2")
    assert verified.returncode == 0, verified.stderr
    assert "good" in verified.stdout
    flip(card, ROOT + 1024 + 56)
    verified = piimg(cluster, "verify", card.node, "--node", "worker2")
    assert verified.returncode == 3
    assert f"byte {ROOT + 1024 + 56} on (partition 2, the superblock)" in verified.stdout
    assert piimg(cluster, "verify", card.node, "--node", "worker1").returncode == 3


def test_without_a_node_it_is_the_one_carried(cluster: Path, card: Disk) -> None:
    assert piimg(cluster, "flash", card.node, "-n", "worker1", "--virtual", "-y").returncode == 0
    done = piimg(cluster, "flash", card.node, "--virtual", "-y")
    assert done.returncode == 0
    assert "worker1" in done.stdout


def test_a_card_of_another_cluster_says_nothing_of_this_one(cluster: Path, card: Disk) -> None:
    assert piimg(cluster, "flash", card.node, "-n", "worker1", "--virtual", "-y").returncode == 0
    document = cluster / "build" / "worker1.json"
    document.unlink()
    document.write_text(json.dumps({"node": "worker1", "cluster": "another", "tree_digest": "0" * 64}))
    done = piimg(cluster, "flash", card.node, "--virtual", "-y")
    assert done.returncode == 2
    assert "which node is" in done.stderr


def test_without_a_node_it_is_the_only_one_built_and_never_a_guess(cluster: Path, card: Disk) -> None:
    done = piimg(cluster, "flash", card.node, "--virtual", "-y")
    assert (done.returncode, head(card)) == (2, bytes(HEAD))
    assert "which node is" in done.stderr
    assert "master, worker1, worker2" in done.stderr
    for node in ("master", "worker1"):
        (cluster / "build" / f"{node}.img").unlink()
    done = piimg(cluster, "flash", card.node, "--virtual", "-y")
    assert done.returncode == 0
    assert "worker2" in done.stdout


def test_with_nobody_to_ask_nothing_is_written(cluster: Path, card: Disk) -> None:
    done = piimg(cluster, "flash", card.node, "-n", "worker1", "--virtual")
    assert (done.returncode, head(card)) == (2, bytes(HEAD))
    assert "32.0 GB" in done.stderr
    assert "no terminal" in done.stderr


def refused(cluster: Path, device: object, reason: str, *more: str) -> None:
    done = piimg(cluster, "flash", device, "-n", "worker1", "-y", *more)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_what_may_not_be_written_to_is_refused(
    cluster: Path, make_card: MakeCard, make_partitioned: MakePart, tmp_path: Path
) -> None:
    card = make_card()
    part = make_partitioned(card)
    refused(cluster, card.node, "is a loop device, accepted only with --virtual")
    refused(cluster, part, f"the whole disk is {card.node}", "--virtual")
    refused(cluster, cluster / "cluster.toml", "is a regular file", "--virtual")
    refused(cluster, cluster, "is a directory", "--virtual")
    refused(cluster, "nothing", "No such file", "--virtual")
    refused(cluster, make_card(size=4 * MIB).node, "it is too small", "--virtual")
    refused(cluster, make_card(read_only=True).node, "it is write-protected", "--virtual")
    link = tmp_path / "link"
    link.symlink_to(card.node)
    with mounted(part, tmp_path / "point"):
        refused(cluster, link, f"{part.name} is mounted at {tmp_path / 'point'}", "--virtual")
        assert piimg(cluster, "verify", card.node, "-n", "worker1").returncode == 2
    assert head(card) == bytes(HEAD)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "which card?"),
        (("--all", "--yes"), "must be named"),
        (("--all", "--node", "x"), "exclude each other"),
        (("--image", "nothing", "/dev/null"), "nothing: No such file"),
        (("--node", "../worker1", "/dev/null"), "is a character device"),
    ],
)
def test_wrong_usage_is_reported(cluster: Path, arguments: tuple[str, ...], reason: str) -> None:
    done = piimg(cluster, "flash", *arguments)
    assert done.returncode == 2
    assert reason in done.stderr


def test_a_node_cannot_lead_out_of_the_folder(cluster: Path, card: Disk) -> None:
    for name, reason in (
        ("worker9", "piimg build --node worker9"),
        ("../build/worker1", "is not the name of a node"),
    ):
        done = piimg(cluster, "flash", card.node, "-n", name, "-y", "--virtual")
        assert done.returncode == 2 and reason in done.stderr, done.stderr
    refused(cluster, card.node, "one card gets one node", "--virtual", "-n", "worker2")


def test_a_file_that_is_no_image_of_a_disk_is_refused(cluster: Path, card: Disk) -> None:
    done = piimg(cluster, "flash", card.node, "--image", cluster / "cluster.toml", "--virtual")
    assert (done.returncode, head(card)) == (2, bytes(HEAD))
    assert "cluster.toml is text, not a disk image" in done.stderr


def test_one_image_goes_onto_several_cards(cluster: Path, make_card: MakeCard) -> None:
    cards = [make_card(), make_card()]
    image = cluster / "build" / "worker1.img"
    devices = [disk.node for disk in cards]
    done = piimg(
        cluster, "flash", *devices, "--image", image, "--virtual", "-y", "--report", cluster / "r.json"
    )
    assert done.returncode == 0, done.stderr
    assert all(bmaptool_agrees(open_source(image), disk) for disk in cards)
    assert [load["verdict"] for load in json.loads((cluster / "r.json").read_text())["cards"]] == [
        "good",
        "good",
    ]
    twice = piimg(cluster, "flash", devices[0], devices[0], "--image", image, "--virtual", "-y")
    assert twice.returncode == 2
    assert "named twice" in twice.stderr


def test_all_nodes_are_flashed_and_keep_their_cards(cluster: Path, make_card: MakeCard) -> None:
    cards = [make_card() for _ in NODES]
    devices = [disk.node for disk in reversed(cards)]
    done = piimg(cluster, "flash", "--all", *devices, "--virtual", "-y", "--json")
    assert done.returncode == 0, done.stderr
    first = {load["node"]: load["device"] for load in json.loads(done.stdout)["cards"]}
    assert list(first) == list(NODES)
    in_order = sorted((disk.node for disk in cards), key=lambda node: int(node.name.removeprefix("loop")))
    assert list(first.values()) == [str(node) for node in in_order]

    assert piimg(cluster, "flash", first["master"], "-n", "worker2", "--virtual", "-y").returncode == 0
    assert piimg(cluster, "flash", first["worker2"], "-n", "master", "--virtual", "-y").returncode == 0
    done = piimg(cluster, "flash", "--all", *devices, "--virtual", "-y", "--json")
    again = {load["node"]: load["device"] for load in json.loads(done.stdout)["cards"]}
    assert again == {**first, "master": first["worker2"], "worker2": first["master"]}


def test_one_bad_card_of_three(cluster: Path, make_card: MakeCard, make_faulty: Rig) -> None:
    cards = [make_card(), make_faulty(fault="write-error", at=ROOT + 4 * MIB), make_card()]
    done = piimg(cluster, "flash", "--all", *[disk.node for disk in cards], "--virtual", "-y")
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("good\n") == 2
    assert f"{cards[1].node}: writing failed at byte {ROOT + 4 * MIB}" in done.stdout
    assert "(partition 2, /noise)" in done.stdout
    assert "nodes without a good card" in done.stdout


def test_fewer_cards_than_nodes_with_nobody_to_ask(cluster: Path, card: Disk) -> None:
    done = piimg(cluster, "flash", "--all", card.node, "--virtual", "-y", "--json")
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert [one["node"] for one in document["cards"]] == ["master"]
    assert document["remaining"] == ["worker1", "worker2"]


def test_progress_is_json_lines_when_asked_for(cluster: Path, card: Disk) -> None:
    words = ("flash", card.node, "-n", "worker1", "--virtual", "-y", "--full")
    done = piimg(cluster, "--progress", "json", *words)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    tasks = [(one["event"], one["task"]) for one in events if one["event"] != "advanced"]
    assert (tasks.pop(0), tasks.pop()) == (("started", "flash"), ("finished", "flash"))
    assert tasks == [
        (event, task) for task in ("probe", "write", "read-back") for event in ("started", "finished")
    ]


@contextmanager
def slow_flash(cluster: Path, card: Disk, node: str = "worker1") -> Iterator[subprocess.Popen[str]]:
    """A flash that is in the middle of writing."""
    line = command(
        "--progress",
        "json",
        "flash",
        str(card.node),
        "--node",
        node,
        "--virtual",
        "-y",
        "--full",
        "--json",
    )
    with subprocess.Popen(
        line,
        cwd=cluster,
        env=environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if '"advanced"' in said and '"write"' in said:
                break
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_what_state_the_card_is_in(
    cluster: Path, make_faulty: Rig, number: signal.Signals
) -> None:
    card = make_faulty(delay="0.1")
    with slow_flash(cluster, card) as process:
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    (report,) = json.loads(stdout)["cards"]
    assert report["verdict"] == "interrupted"
    assert "does not boot" in report["error"]
    assert head(card) == bytes(HEAD)


def sector_of_table(cluster: Path) -> bytes:
    """The partition entries of worker1's image."""
    with (cluster / "build" / "worker1.img").open("rb") as stream:
        return stream.read(512)[446:510]


def test_killed_it_leaves_no_bootable_card_and_starts_again(cluster: Path, make_faulty: Rig) -> None:
    card = make_faulty(delay="0.02")
    assert piimg(cluster, "flash", card.node, "-n", "worker1", "--virtual", "-y").returncode == 0
    with slow_flash(cluster, card) as process:
        process.kill()
        process.wait(30)
    assert head(card)[510:512] == bytes(2)  # no MBR
    assert sector_of_table(cluster) not in head(card)
    assert piimg(cluster, "flash", card.node, "-n", "worker1", "--virtual", "-y").returncode == 0


def test_killed_it_leaves_the_node_and_the_cluster_on_the_card(cluster: Path, make_faulty: Rig) -> None:
    """Without the cluster the station would offer the card as another node."""
    card = make_faulty(delay="0.05")
    with slow_flash(cluster, card, "worker2") as process:
        process.kill()
        process.wait(30)
    assert parse_unfinished(head(card)) == Carried("worker2", "picluster")


def test_every_command_has_an_example(cluster: Path) -> None:
    for name in ("cards", "flash", "verify"):
        assert f"piimg {name}" in piimg(cluster, name, "--help").stdout


def test_reading_an_image_without_a_map_is_reported(cluster: Path, card: Disk, tmp_path: Path) -> None:
    plain = tmp_path / "plain.img"
    plain.symlink_to((cluster / "build" / "worker1.img").resolve())
    size = plain.stat().st_size
    for words in (["flash", "--virtual", "--yes"], ["verify"]):
        done = piimg(cluster, "--progress", "json", *words, card.node, "--image", plain)
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        reported = [event for event in events if event.get("task") == "check"]
        assert {one["subject"] for one in reported} == {"plain.img"}
        assert (reported[0]["event"], reported[-1]["event"]) == ("started", "finished")
        assert [one["done"] for one in reported[1:-1]] == list(range(MIB, size + 1, MIB))
