"""What a card carries is shown wherever it is asked: another cluster's node, or one that was cut off."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict
from imagebuilder.card.source import HEAD, open_source
from imagebuilder.card.write import FlashJob, Target, flash
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import unfinished_line
from imagebuilder.errors import PiimgError
from imagebuilder.events import Silent
from imagebuilder.image.inspect import inspect_image
from tests.integration.card.conftest import CLUSTER, MakeCard, make_image
from tests.integration.card.running import NODES
from tests.integration.card.test_commands import piimg
from tests.integration.card.test_write import head


def cut_off(card: Disk, node: str, cluster: str = CLUSTER) -> None:
    with Path(card.backing).open("r+b") as stream:
        line = unfinished_line(node, cluster)
        stream.write(line + os.urandom(HEAD - len(line)))
        os.fsync(stream.fileno())


def test_a_card_that_was_cut_off_is_known_everywhere(cluster: Path, card: Disk) -> None:
    cut_off(card, "worker2")
    listed = piimg(cluster, "cards", "--virtual")
    (row,) = [line for line in listed.stdout.splitlines() if f"  {card.node}  " in line]
    assert "worker2 (cut off)" in row
    document = json.loads(piimg(cluster, "cards", "--virtual", "--json").stdout)
    (mine,) = [one for one in document["cards"] if one["device"] == str(card.node)]
    assert (mine["node"], mine["unfinished"]) == (None, f"worker2 of {CLUSTER}")
    seen = piimg(cluster, "inspect", card.node)
    assert seen.returncode == 1
    assert f"the writing of worker2 of {CLUSTER} to it was interrupted" in seen.stderr
    assert f"sudo piimg flash {card.node} --node worker2" in seen.stderr
    verified = piimg(cluster, "verify", card.node)
    assert f"the writing of worker2 of {CLUSTER} to it was interrupted" in verified.stdout
    done = piimg(cluster, "flash", card.node, "--virtual", "--yes")  # three nodes are built
    assert done.returncode == 0, done.stderr
    assert "worker2" in done.stdout and piimg(cluster, "verify", card.node).returncode == 0


def test_all_nodes_keep_the_cards_that_were_cut_off(cluster: Path, make_card: MakeCard) -> None:
    first, second, third = (make_card() for _ in range(3))
    cut_off(first, "worker2")
    cut_off(second, "worker1", "another")
    devices = [first.node, second.node, third.node]
    done = piimg(cluster, "flash", "--all", *devices, "--virtual", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    got = {card["device"]: card["node"] for card in json.loads(done.stdout)["cards"]}
    assert got[str(first.node)] == "worker2"
    assert "worker1 of another (cut off)" in done.stderr


def test_the_cluster_of_another_cluster_s_card_is_shown(cluster: Path, card: Disk, tmp_path: Path) -> None:
    image = make_image(tmp_path / "other.img", "worker1")
    with image.open("r+b") as stream:
        content = stream.read()
        stream.seek(0)
        stream.write(content.replace(CLUSTER.encode(), b"otherclus"))
    image.with_suffix(".bmap").unlink()
    job = FlashJob(disk=card, source=open_source(image), target=Target("worker1", "otherclus"))
    assert flash(job, Silent(), threading.Event()).verdict is Verdict.GOOD
    assert "worker1 of otherclus" in piimg(cluster, "cards", "--virtual").stdout
    refused = piimg(cluster, "flash", card.node, "--node", "worker1", "--virtual")
    assert "worker1 of otherclus" in refused.stderr


def test_the_disk_of_this_system_is_no_card(cluster: Path) -> None:
    said = ["findmnt", "--noheadings", "--nofsroot", "--output", "SOURCE", "/"]
    source = Path(subprocess.run(said, capture_output=True, text=True, check=False).stdout.strip())
    if not source.is_block_device() or source.name[-1].isdigit():
        pytest.skip("the root file system is not on a whole disk here")
    done = piimg(cluster, "verify", source)
    assert done.returncode == 2
    assert f"{source} is no card: this system runs from it: it holds " in done.stderr
    assert "umount" not in done.stderr and "piimg cards" in done.stderr


def test_without_rights_sudo_is_advised(card: Disk) -> None:
    """As somebody who may not read the device; inspect and verify read it in the same way."""
    card.node.chmod(0o600)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            inspect_image(card.node)
        except PiimgError as error:
            os._exit(0 if error.hint == "run piimg with sudo" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert head(card) == bytes(HEAD)


def test_flash_and_station_know_of_each_other_s_cards(cluster: Path, make_card: MakeCard) -> None:
    first, second = make_card(), make_card()
    done = piimg(cluster, "flash", first.node, "--node", "worker1", "--virtual", "--yes")
    assert done.returncode == 0 and "has a card already" not in done.stderr, done.stderr
    state = cluster / "state" / CLUSTER / "station.json"
    kept = json.loads(state.read_text())["nodes"]["worker1"]
    assert (kept["device"], kept["verdict"]) == (str(first.node), "good")
    again = piimg(cluster, "flash", first.node, "--node", "worker1", "--virtual", "--yes")
    assert "has a card already" not in again.stderr  # it is this one
    other = piimg(cluster, "flash", second.node, "--node", "worker1", "--virtual", "--yes")
    assert f"UTC, in slot {first.slot}): this will be another one" in other.stderr
    done = piimg(cluster, "flash", "--all", *[make_card().node for _ in NODES], "--virtual", "--yes")
    assert done.returncode == 0, done.stderr
    station = piimg(cluster, "station", "--virtual", "--slot", first.slot, "--yes")
    assert station.returncode == 0, station.stderr
    assert "every node has its card" in station.stderr and "worker1 is done: on " in station.stderr
