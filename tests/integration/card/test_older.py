"""After the manifest changed: `piimg status`, and `piimg verify` of older, damaged and other cards."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.device.discovery import Disk
from tests.integration.card.test_write import flip
from tests.integration.card.verifying import SIZE, as_card
from tests.integration.cli.test_events import REPORT
from tests.support.cluster import Place, make_place
from tests.support.judge import debugfs, places

pytestmark = pytest.mark.long

ADDRESS = r'^address = "10\.0\.0\.11"'


@dataclass(frozen=True)
class Flashed:
    """A cluster whose worker1 and worker2 were flashed, before the address of worker1 was changed."""

    place: Place
    base: Path
    cards: tuple[Path, Path]

    def run(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        done = self.place.run(*words, "--base", self.base)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        return {node["node"]: node for node in document["nodes"]}


@pytest.fixture(scope="module")
def flashed(specimen: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Flashed:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    folder = tmp_path_factory.mktemp("older")
    place = make_place(folder, folder / "cache")
    made = Flashed(place, specimen("trixie"), (folder / "card1", folder / "card2"))
    for card, node in zip(made.cards, ("worker1", "worker2"), strict=True):
        card.touch()
        os.truncate(card, SIZE)
        with as_card(card) as disk:
            done = made.run("flash", disk.node, "--node", node, "--virtual", "--yes")
            assert done.returncode == 0, done.stderr
            assert "outdated" not in done.stderr
    before = made.status()
    assert [node for node, one in before.items() if one["flash_again"] is False and one["cards"]] == [
        "worker1",
        "worker2",
    ]
    place.edit(ADDRESS, 'address = "10.0.0.91"')
    return made


@pytest.fixture
def disks(flashed: Flashed) -> Iterator[tuple[Disk, Disk]]:
    """Both cards, in their slots."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(as_card(card)) for card in flashed.cards)
        yield first, second


def digest_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Each file below a folder, with its time and content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_status_says_what_changed_and_writes_nothing(flashed: Flashed) -> None:
    before = digest_of(flashed.place.folder)
    found = flashed.status()
    assert found["worker1"]["cards"][0]["changed"] == ["address changed", "hosts changed"]
    assert found["worker1"]["flash_again"] is True
    assert found["worker2"]["cards"][0]["changed"] == ["hosts changed"]
    assert (found["worker1"]["up_to_date"], found["worker1"]["changes"]) == (
        False,
        ["address changed", "hosts changed"],
    )
    assert (found["worker3"]["prepared"], found["worker3"]["cards"]) == (False, [])
    shown = flashed.run("status").stdout
    assert "to flash again: worker1, worker2 (sudo piimg flash --all)" in shown
    assert "not flashed yet: master, worker3, worker4, worker5" in shown
    assert digest_of(flashed.place.folder) == before


def test_an_older_card_is_not_called_damaged(flashed: Flashed, disks: tuple[Disk, Disk]) -> None:
    done = flashed.run("verify", disks[0].node, "--json")
    document = json.loads(done.stdout)
    REPORT.validate(document)
    assert done.returncode == 3
    (card,) = document["cards"]
    assert (card["verdict"], card["offset"]) == ("older", None)
    assert document["state"]["older"] == {"changes": ["address changed", "hosts changed"], "undamaged": True}
    assert card["hint"] == f"flash it again: sudo piimg flash {disks[0].node} --node worker1"
    shown = flashed.run("verify", disks[0].node).stdout
    assert "flashed from an older manifest: address, hosts; it is undamaged" in shown


@pytest.mark.parametrize("where", ["common", "own"])
def test_an_older_card_that_is_damaged_is_bad(flashed: Flashed, disks: tuple[Disk, Disk], where: str) -> None:
    """The damage is in what both images have, or in a block of the node alone."""
    root = places(flashed.cards[1]).root
    path = "/etc/passwd" if where == "common" else "/etc/hosts"
    offset = root + int(debugfs(flashed.cards[1], f"blocks {path}").split()[0]) * 4096 + 20
    with flipped(disks[1], offset):
        done = flashed.run("verify", disks[1].node, "--json")
        (card,) = json.loads(done.stdout)["cards"]
        assert (done.returncode, card["verdict"]) == (3, "bad")
        assert card["offset"] <= offset < card["offset"] + (1 << 20)
        assert "neither what the manifest gives nor what was written" in card["error"]
        assert card["hint"].startswith("read it again in another reader; then flash it again")
    assert json.loads(flashed.run("verify", disks[1].node, "--json").stdout)["cards"][0]["verdict"] == "older"


class flipped:  # noqa: N801 - a context
    """A byte of a card that is another one during the block."""

    def __init__(self, disk: Disk, offset: int) -> None:
        self.disk, self.offset = disk, offset

    def __enter__(self) -> None:
        flip(self.disk, self.offset)

    def __exit__(self, *error: object) -> None:
        flip(self.disk, self.offset)


def test_without_a_kept_map_damage_is_not_excluded(flashed: Flashed, disks: tuple[Disk, Disk]) -> None:
    """First the recipe of the card's history says what changed; without that, the files that differ."""
    written = flashed.place.workspace.state / "written"
    for suffix, changes in (("bmap", "address, hosts"), ("recipe", "/etc/hosts")):
        for file in written.glob(f"worker1-*.{suffix}"):
            file.rename(file.with_name(f"kept-{file.name}"))
        try:
            done = flashed.run("verify", disks[0].node, "--json")
            document = json.loads(done.stdout)
            assert document["cards"][0]["verdict"] == "older", document
            assert document["state"]["older"]["undamaged"] is None
            assert changes in flashed.run("verify", disks[0].node).stdout
            assert "whether it is damaged is not known" in document["cards"][0]["error"]
        finally:
            if suffix == "recipe":
                for file in written.glob("kept-*"):
                    file.rename(file.with_name(file.name.removeprefix("kept-")))


def test_the_card_of_another_node_is_named(flashed: Flashed, disks: tuple[Disk, Disk]) -> None:
    done = flashed.run("verify", disks[0].node, "--node", "worker2")
    assert done.returncode == 3
    assert f"this is worker1's card: sudo piimg verify {disks[0].node}" in done.stdout


def test_all_cards_that_are_in(flashed: Flashed, disks: tuple[Disk, Disk]) -> None:
    done = flashed.run("verify", "--all", "--virtual")
    assert done.returncode == 3, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    for disk, node in zip(disks, ("worker1", "worker2"), strict=True):
        (line,) = [line for line in lines if line[0] == str(disk.node)]
        assert (line[2], line[-1]) == (node, "older")
    document = json.loads(flashed.run("verify", "--all", "--virtual", "--json").stdout)
    REPORT.validate(document)
    assert {card["verdict"] for card in document["cards"]} == {"older"}
    assert {"worker1", "worker2"} <= {state["node"] for state in document["states"]}


@pytest.mark.parametrize("words", [["flash", "--all"], ["flash"], ["verify"]])
def test_a_card_of_the_cluster_says_that_there_were_keys(
    flashed: Flashed, disks: tuple[Disk, Disk], words: list[str]
) -> None:
    """In a new copy of the cluster folder, as after git clone, nothing else says so."""
    card = disks[0].node
    with tempfile.TemporaryDirectory() as name:
        copy = Place(Path(name) / "mycluster", flashed.place.cache)
        copy.folder.mkdir()
        for file in ("cluster.toml", "secrets.toml"):
            shutil.copy(flashed.place.folder / file, copy.folder)
        there = sorted(copy.folder.rglob("*"))
        yes = ["--virtual", "--yes"] if words[0] == "flash" else []
        said = copy.refused(2, *words, card, *yes, "--base", flashed.base)
        assert "the keys of the cluster mycluster are missing: a card of it is here" in said
        assert [path for path in sorted(copy.folder.rglob("*")) if path.name != "build"] == there


@pytest.mark.parametrize("words", [[], ["--all", "--node", "worker1"], ["--all", "/dev/null"]])
def test_what_to_verify_must_be_clear(flashed: Flashed, words: list[str]) -> None:
    assert flashed.run("verify", *words).returncode == 2


def test_writing_one_node_names_the_others(flashed: Flashed, disks: tuple[Disk, Disk]) -> None:
    """The last test: it writes the card of worker1."""
    done = flashed.run("flash", disks[0].node, "--virtual", "--yes")
    assert done.returncode == 0, done.stderr
    assert "flashed before and outdated now: worker2 (hosts changed)" in done.stderr
    assert flashed.run("verify", disks[0].node).returncode == 0
    with flipped(disks[0], places(flashed.cards[0]).root + 4096):
        bad = flashed.run("verify", disks[0].node, "--json")
    (card,) = json.loads(bad.stdout)["cards"]
    assert (bad.returncode, card["verdict"]) == (3, "bad")
    assert card["hint"].endswith("use another card only if that fails too")
    found = flashed.status()
    assert (found["worker1"]["flash_again"], found["worker2"]["flash_again"]) == (False, True)
