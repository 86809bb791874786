"""A station nobody watches, as docs/station.md has it: real udev tells of cards and gives rights to them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.card.source import HEAD
from tests.integration.card.manning import Cards, holds, start, station
from tests.integration.card.running import TOP, environment
from tests.integration.card.slots import Slot, slots
from tests.support import machine as machines
from tests.support.machine import AS_USER, ID, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slots

STATION = TOP / "packaging" / "station"


@pytest.fixture
def two(root: None) -> Iterator[list[Slot]]:
    """Two slots: the rules are for the first, the other is none of the station's business."""
    with slots(2) as made:
        yield made


@pytest.fixture
def udev(two: list[Slot], tmp_path: Path) -> Iterator[Machine]:
    """A machine with the shipped rules, for a loop device instead of a USB port."""
    rules = (STATION / "70-piimg-station.rules").read_text()
    rules, count = re.subn(r'SUBSYSTEMS=="usb", KERNELS=="[^"]*"', f'KERNEL=="{two[0].name}"', rules)
    assert count == 1
    with machines.machine(tmp_path / "machine", rules) as one:
        for slot in two:
            one.make_node(slot.number)
        yield one


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    """``cards()`` is a new card."""
    return Cards(tmp_path)


def settle(udev: Machine, slot: Slot) -> str:
    """What udev knows of the card in a slot, once it has done with it."""

    def properties() -> str:
        return udev.run("udevadm", "info", "--query=property", slot.node).stdout

    wait_until(
        lambda: {"DEVNAME", "USEC_INITIALIZED"} <= {line.partition("=")[0] for line in properties().split()},
        30,
        properties,
    )
    return properties()


WATCH = """
import time
from imagebuilder.device.monitor import watching
with watching() as watch:
    print(watch.by_udev, flush=True)
    begun = time.monotonic()
    watch.wait()
    print(time.monotonic() - begun < 4.5, flush=True)
"""


def test_udev_reports_a_card(udev: Machine, two: list[Slot], cards: Cards) -> None:
    process = subprocess.Popen(
        udev.entered([sys.executable, "-c", WATCH]),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    two[0].put(cards())
    assert process.stdout.readline() == "True\n"
    assert process.wait(30) == 0


def test_the_rules_give_the_slot_to_the_user_and_keep_desktops_away(
    udev: Machine, two: list[Slot], cards: Cards
) -> None:
    for slot in two:
        slot.put(cards())
    reported, other = (settle(udev, slot) for slot in two)
    assert {"UDISKS_IGNORE=1", "SYSTEMD_WANTS=piimg-station.service"} <= set(reported.splitlines())
    assert "UDISKS_IGNORE" not in other and "SYSTEMD_WANTS" not in other
    mine, others = (udev.inside(slot.node).stat() for slot in two)
    assert (mine.st_gid, mine.st_mode & 0o777) == (ID, 0o660)
    assert others.st_gid != ID and others.st_mode & 0o007 == 0


def test_slots_that_nobody_named_come_and_go(
    udev: Machine, two: list[Slot], cards: Cards, cluster: Path
) -> None:
    with station(cluster, two, within=udev) as one:
        for slot, node in zip(two, ("master", "worker1"), strict=True):
            slot.put(cards())
            one.shows(slot, f"good: take it out, and label it {node}")
            assert holds(slot, cluster, node)
        two[0].take()
        one.window.wait_for(lambda lines: not any(line.startswith(two[0].name) for line in lines[-20:]))
        one.shows(two[1], "label it worker1")


def test_a_user_without_any_right_but_to_the_slot_runs_it(
    udev: Machine, two: list[Slot], cards: Cards, cluster: Path, images: Path
) -> None:
    for file in (cluster / "build").iterdir():  # the user cannot look into the folder they are linked from
        file.unlink()
        shutil.copy(images / file.name, file)
    shutil.chown(cluster, ID, ID)
    for file in cluster.rglob("*"):
        shutil.chown(file, ID, ID)
    for folder in (cluster.parent, cluster.parent.parent, cluster.parent.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o011)
    other = cards()
    two[1].put(other)
    options = ["--progress", "plain", "station", "--images", "build", "--virtual", "--yes"]
    named = [f"--slot={two[0].name}=worker1", f"--slot={two[1].name}=worker2"]
    said = cluster / "said"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            udev.entered([sys.executable, "-c", AS_USER, *options, *named], cluster),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        wait_for(said, "put in a card for worker1")
        two[0].put(cards())
        wait_for(said, "good: take it out, and label it worker1")
        assert holds(two[0], cluster, "worker1")
        two[1].take()
        wait_for(said, "put in a card for worker2")
        two[1].put(other)  # udev gave no right to that one
        wait_for(said, f"{two[1].name}: left alone: cannot read {two[1].node}: Permission denied")
        assert start(other) == bytes(HEAD)
    finally:
        process.terminate()
        process.wait()
    owners = {file.stat().st_uid for file in (cluster / "state").rglob("*")}
    assert owners == {ID}


def wait_for(said: Path, text: str) -> None:
    wait_until(lambda: text in said.read_text(), 60, said.read_text)


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: sudo apt-get install systemd")
    unit = tmp_path / "piimg-station.service"
    text = (STATION / unit.name).read_text()
    unit.write_text(text.replace("ExecStart=piimg ", f"ExecStart={sys.executable} "))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    command = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert command is not None and command[1] in (TOP / "docs" / "station.md").read_text()
