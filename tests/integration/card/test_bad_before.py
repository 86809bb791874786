"""A card that was bad once is written again only if somebody says so, and then all of it, and read back."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.card.source import open_source
from imagebuilder.device.discovery import Disk
from tests.integration.card.conftest import MIB, ROOT, MakeCard
from tests.integration.card.manning import start, station
from tests.integration.card.rig import Rig, below, bmaptool_agrees
from tests.integration.card.slots import Slot, slots
from tests.integration.card.test_commands import piimg
from tests.integration.card.test_remembering import MINUTE, reported
from tests.integration.card.test_rounds import flashing
from tests.integration.card.test_write import flip, head

pytestmark = pytest.mark.slots

PLACE = ROOT + 4 * MIB  # in a file of the root partition
SAID = rf"this card was bad on {MINUTE} at byte \d+"


@pytest.fixture
def repented(cluster: Path, make_faulty: Rig) -> Disk:
    """A card that was bad when it was flashed, and keeps everything from now on."""
    card = make_faulty(fault="lost-write", at=PLACE)
    assert piimg(cluster, "flash", card.node, "-n", "worker1", "--virtual", "-y").returncode == 3
    below(card).with_name("switch").unlink()
    return card


def flash(cluster: Path, card: Disk, *more: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the report on the card, and what was said."""
    done = piimg(cluster, "flash", card.node, "-n", "worker1", "--virtual", "--json", *more)
    reports = json.loads(done.stdout)["cards"] if done.stdout else [{}]
    return done.returncode, reports[0], done.stderr


def is_whole(cluster: Path, report: dict[str, Any]) -> bool:
    """Whether all of the node image was written and read back."""
    used = open_source(cluster / "build" / "worker1.img").used
    return (report["mode"], report["skipped"], report["written"]) == ("all", 0, used)


def test_yes_alone_does_not_do(cluster: Path, repented: Disk, make_card: MakeCard) -> None:
    before, sound = below(repented).read_bytes(), make_card()
    code, _, said = flash(cluster, repented, "--yes")
    assert code == 2
    assert re.search(rf"^piimg: {repented.node}: {SAID}: a fake\?$", said, re.MULTILINE), said
    assert "--again" in said
    every = piimg(cluster, "flash", "--all", repented.node, sound.node, "--virtual", "--yes")
    assert every.returncode == 2
    assert re.search(SAID, every.stderr)
    assert below(repented).read_bytes() == before
    assert not any(head(sound))


def test_with_again_all_of_it_is_written_and_read_back_each_time(cluster: Path, repented: Disk) -> None:
    for more in ([], [], ["--no-verify"]):  # the second time it holds everything
        code, report, said = flash(cluster, repented, "--yes", "--again", *more)
        assert (code, report["verdict"]) == (0, "good"), said
        assert is_whole(cluster, report)
        assert report["read_back"] >= report["written"]
        assert re.search(rf"^note: {repented.node}: {SAID}: a fake\?$", said, re.MULTILINE), said
    assert bmaptool_agrees(open_source(cluster / "build" / "worker1.img"), repented)


def test_a_good_run_does_not_clear_it(cluster: Path, repented: Disk) -> None:
    assert flash(cluster, repented, "--yes", "--again")[0] == 0
    (warning,) = reported(cluster, repented)["warnings"]
    assert re.fullmatch(SAID, warning)
    assert flash(cluster, repented, "--yes")[0] == 2


@pytest.mark.parametrize("options", [[], ["--yes"]])
def test_the_question_begins_with_it_and_wants_yes_in_full(
    cluster: Path, repented: Disk, options: list[str]
) -> None:
    before = below(repented).read_bytes()
    for answer in ("\n", "y\n", "ye\n"):
        with flashing(cluster, repented.node, "-n", "worker1", "--virtual", *options) as window:
            window.wait_for(f"{repented.node}: this card was bad on ")
            window.wait_for(": a fake?\r\nErase this card?")
            window.hear(0.5)
            window.type(answer)
            assert window.end()[0] == 2  # docs/commands.md
        assert below(repented).read_bytes() == before
    with flashing(cluster, repented.node, "-n", "worker1", "--virtual", *options) as window:
        window.wait_for("[yes/N]:")
        window.hear(0.5)
        window.type("yes\n")
        status, said = window.end()
    assert status == 0, said
    (report,) = json.loads((cluster / "build" / "flash-report.json").read_text())["cards"]
    assert report["verdict"] == "good" and is_whole(cluster, report)


def test_with_again_it_is_asked_as_always(cluster: Path, repented: Disk) -> None:
    with flashing(cluster, repented.node, "-n", "worker1", "--virtual", "--again") as window:
        window.wait_for("a fake?")
        window.wait_for("Erase this card? [y/N]:")
        window.hear(0.5)
        window.type("y\n")
        assert window.end()[0] == 0


@pytest.fixture
def slot(root: None) -> Iterator[Slot]:
    """An empty slot."""
    with slots(1) as (one,):
        yield one


@pytest.fixture
def known(cluster: Path, slot: Slot, tmp_path: Path, make_faulty: Rig) -> Path:
    """The file of a card that is known to be bad, and is as good as empty."""
    file = make_faulty.serve(fault="lost-write", at=PLACE)
    slot.put(file)
    assert piimg(cluster, "flash", slot.node, "-n", "worker1", "--virtual", "-y").returncode == 3
    slot.take()
    file.parent.with_name("switch").unlink()
    return file


@pytest.mark.parametrize("options", [[], ["--erase"]])
def test_a_station_asks_about_it(cluster: Path, slot: Slot, known: Path, options: list[str]) -> None:
    data = known.parent.with_name("data")
    with station(cluster, [slot], *options) as one:
        for answer in ("y\n", "yes\n"):
            untouched = data.read_bytes()
            slot.put(known)
            one.see(f"Erase {slot.node} ({slot.name}) for master? [yes in full/N]")
            one.see(f"{slot.name}: this card was bad on", ": a fake?")
            one.window.settle(0.5)
            assert data.read_bytes() == untouched
            one.type(answer)
            if answer == "y\n":
                one.shows(slot, "left alone: nothing was written")
                assert data.read_bytes() == untouched
                slot.take()
                one.shows(slot, "put in a card")
                one.window.screen.reset()
                one.window.screen.history.top.clear()
        one.see(slot.name, "label it master")
    (report,) = json.loads((cluster / "build" / "station-report.json").read_text())["cards"]
    assert (report["mode"], report["skipped"]) == ("all", 0)


def test_a_station_with_nobody_there_leaves_it_alone(cluster: Path, slot: Slot, known: Path) -> None:
    before = start(known)
    with station(cluster, [slot], "--erase", typing=False) as one:
        slot.put(known)
        one.see(slot.name, "left alone: this card was bad on", "and no user can be asked")
    assert start(known) == before


@pytest.fixture
def built_before(cluster: Path) -> Path:
    """The node image of worker1, which was made a while ago."""
    image = cluster / "build" / "worker1.img"
    os.utime(image, (image.stat().st_mtime - 100,) * 2)
    return image


def test_what_verify_finds_bad_is_remembered(cluster: Path, card: Disk, built_before: Path) -> None:
    assert flash(cluster, card, "--yes")[0] == 0
    assert piimg(cluster, "verify", card.node).returncode == 0
    assert reported(cluster, card)["warnings"] == []
    flip(card, PLACE)
    assert piimg(cluster, "verify", card.node).returncode == 3
    found = reported(cluster, card)
    assert found["warnings"][0].endswith(f"at byte {PLACE}")
    assert found["history"][0]["verdict"] == "bad"
    assert flash(cluster, card, "--yes")[0] == 2


@pytest.mark.parametrize("why", ["mounted", "built anew", "never flashed"])
def test_what_is_no_fault_of_the_card_is_not_held_against_it(
    cluster: Path, card: Disk, built_before: Path, why: str
) -> None:
    assert flash(cluster, card, "--yes")[0] == 0
    flip(card, PLACE if why != "mounted" else ROOT + 1024 + 56)
    if why == "built anew":
        os.utime(built_before, (built_before.stat().st_mtime + 5000,) * 2)
    node = ["--node", "worker2"] if why == "never flashed" else []
    assert piimg(cluster, "verify", card.node, *node).returncode == 3
    assert reported(cluster, card)["warnings"] == []
    assert flash(cluster, card, "--yes")[0] == 0
