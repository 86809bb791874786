"""`piimg inspect`, shown cards whose files were written by somebody else."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.image.inspect import FIRSTBOOT, IDENTITY, inspect_image
from imagebuilder.system.process import run
from tests.support.cluster import command


@pytest.fixture
def card(specimen: Callable[[str], Path], tmp_path: Path) -> Path:
    """An image laid out like Raspberry Pi OS."""
    run(["cp", "--sparse=always", specimen("bookworm"), tmp_path / "card.img"])
    return tmp_path / "card.img"


def inspect(card: Path, *words: str) -> str:
    """What piimg says of ``card``."""
    said = subprocess.run(command("inspect", card, *words), capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    return said.stdout


def put(card: Path, name: str, text: str) -> None:
    start = inspect_image(card).table.slices[0].start
    run(["mcopy", "-o", "-i", f"{card}@@{start}", "-", f"::{name}"], data=text.encode())


def test_the_results_of_the_first_boot_are_shown(card: Path) -> None:
    put(card, IDENTITY, '{"node": "worker2", "cluster": "picluster", "manifest": "0123456789abcdef"}')
    assert "no results yet" in inspect(card)
    script = {"name": "10-locale", "status": "done", "attempts": 2, "seconds": 31}
    put(card, FIRSTBOOT, json.dumps({"scripts": [script]}))
    said = inspect(card)
    assert "worker2 of picluster" in said and "bookworm" in said
    assert "10-locale" in said and "done" in said and "attempts 2, 31 s" in said
    assert json.loads(inspect(card, "--json"))["firstboot"]["scripts"] == [script]


@pytest.mark.parametrize("on_boot", [None, "", '{"scripts": ['])
def test_results_that_a_power_cut_spoiled_are_those_of_the_root_partition(
    card: Path, tmp_path: Path, on_boot: str | None
) -> None:
    if on_boot is not None:
        put(card, FIRSTBOOT, on_boot)
    (tmp_path / "summary").write_text('{"scripts": [{"name": "10-locale", "status": "done"}]}')
    start = inspect_image(card).table.slices[1].start
    commands = "cd /var/lib\nmkdir piimg\nmkdir piimg/firstboot\ncd piimg/firstboot\n"
    commands += f"write {tmp_path}/summary .summary\n"
    run(["debugfs", "-w", "-f", "-", f"{card}?offset={start}"], data=commands.encode())
    assert inspect_image(card).firstboot == {"scripts": [{"name": "10-locale", "status": "done"}]}


@pytest.mark.parametrize(
    "scripts", ["5", '["x"]', "{}", "null", r'[{"name": "\ud800\u001b[2J"}]', "[[[[]]]]"]
)
def test_no_file_of_a_card_can_harm(scripts: str, card: Path) -> None:
    put(card, IDENTITY, r'{"node": "\u001b]0;x\u0007", "cluster": {}, "manifest": 5}')
    put(card, FIRSTBOOT, f'{{"scripts": {scripts}}}')
    assert "\x1b" not in inspect(card) + inspect(card, "--json")


def test_a_file_of_any_size_in_the_root_partition_is_borne(card: Path) -> None:
    start = inspect_image(card).table.slices[1].start
    run(["debugfs", "-w", "-R", "sif /usr/lib/os-release size 3000000000000", f"{card}?offset={start}"])
    assert "not Raspberry Pi OS" in inspect(card)


def test_the_path_of_an_image_may_hold_anything(card: Path, tmp_path: Path) -> None:
    """A "?" or an "@@" tells e2fsprogs or mtools where the path ends."""
    folder = tmp_path / "what? @@0"
    folder.mkdir()
    assert "bookworm" in inspect(card.rename(folder / "a?b.img"))
