"""`piimg flash` writes what the manifest gives now, whatever was prepared or built before."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.device.discovery import Disk
from tests.integration.card.conftest import MakeCard
from tests.support import judge
from tests.support.cluster import Place, make_place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")

SIZE = 2 * 10**9


@pytest.fixture(scope="module")
def base(specimen: Callable[[str], Path]) -> Path:
    return specimen("bookworm")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path) -> Place:
    return make_place(tmp_path, cache)


@pytest.fixture
def card(make_card: MakeCard) -> Disk:
    return make_card(size=SIZE)


def flash(place: Place, card: Disk, base: Path, *words: str) -> str:
    """Flash worker1; what was said."""
    done = place.run("flash", card.node, "--node", "worker1", "--virtual", "--yes", "--base", base, *words)
    assert done.returncode == 0, done.stderr
    return done.stderr


def addresses(card: Disk) -> bytes:
    """/etc/hosts of the node on a card."""
    return judge.on_root(card.node, "/etc/hosts")


def test_a_changed_address_is_written_without_a_build(place: Place, card: Disk, base: Path) -> None:
    place.good("build", "--node", "worker1", "--base", base)
    built = (place.build / "worker1.img").stat().st_mtime_ns
    assert "worker1: " not in flash(place, card, base).partition("DEVICE")[0], "it is up to date"
    assert b"10.0.0.11" in addresses(card)
    place.edit(r"10\.0\.0\.11", "10.0.0.99")
    assert "\nworker1: address changed" in flash(place, card, base)
    now = addresses(card)
    assert b"10.0.0.99" in now and b"10.0.0.11" not in now
    assert (place.build / "worker1.img").stat().st_mtime_ns == built, "the old image was not asked for"
    place.good("verify", card.node, "--base", base)
    given = ("--node", "worker1", "--virtual", "--yes", "--images", place.build)
    said = place.run("flash", card.node, *given).stderr
    assert "worker1.img was built from another manifest than the present one" in said
    assert b"10.0.0.11" in addresses(card)


def test_a_node_that_left_the_manifest_is_not_written(place: Place, card: Disk, base: Path) -> None:
    flash(place, card, base)
    prepared = place.folder / "state" / "mycluster" / "prepared"
    assert (prepared / "worker1.blocks").exists()
    place.edit(r'^name = "worker1"', 'name = "worker9"')
    before = judge.on_boot(card.node, "/piimg.json")
    said = place.refused(2, "flash", card.node, "--node", "worker1", "--virtual", "--yes", "--base", base)
    assert "worker1" in said
    assert judge.on_boot(card.node, "/piimg.json") == before
    place.good("flash", card.node, "--node", "worker9", "--virtual", "--yes", "--base", base)
    assert json.loads(judge.on_boot(card.node, "/piimg.json"))["node"] == "worker9"
    assert not list(prepared.glob("worker1.*")), "it has the secrets of a node that is no more"


def test_two_manifests_in_one_folder_do_not_mix(place: Place, card: Disk, base: Path) -> None:
    """Of two clusters, and of one: the nodes have the same names."""
    text = place.manifest.read_text()
    other, third = place.folder / "other.toml", place.folder / "third.toml"
    other.write_text(text.replace('name = "mycluster"', 'name = "other"').replace("10.0.0.11", "10.0.0.77"))
    third.write_text(text.replace("10.0.0.11", "10.0.0.88"))
    expected = {place.manifest: b"10.0.0.11", other: b"10.0.0.77", third: b"10.0.0.88"}
    for manifest in (place.manifest, other, third, place.manifest, other):
        words = ("flash", card.node, "--node", "worker1", "--virtual", "--yes", "--base", base)
        place.good("--manifest", manifest, *words)
        now = addresses(card)
        assert [address for address in expected.values() if address in now] == [expected[manifest]]
        carried = json.loads(judge.on_boot(card.node, "/piimg.json"))["cluster"]
        assert carried == ("other" if manifest == other else "mycluster")
    keys = [file.read_bytes() for file in place.folder.glob("state/*/**/*host*") if file.is_file()]
    assert len(keys) == len(set(keys))


def test_a_base_that_vanished_says_how_to_get_it_back(place: Place, card: Disk, base: Path) -> None:
    own = place.folder / "own.img"
    judge.said("cp", "--sparse=always", base, own)
    words = ("flash", card.node, "--node", "worker1", "--virtual", "--yes", "--base", own)
    place.good(*words)
    place.good("fetch", "--prune", "--all")
    place.good(*words)  # it is fetched again
    own.unlink()
    said = place.refused(2, *words)
    assert f"there is no file {own}" in said and "give a NAME (piimg fetch --list), a URL or a FILE" in said


def test_cards_are_left_alone_while_a_node_cannot_be_prepared(place: Place, card: Disk, base: Path) -> None:
    flash(place, card, base)
    with card.node.open("rb") as stream:
        before = stream.read(1 << 20)
    layer = place.folder / "overlays" / "node-worker1"
    layer.mkdir()
    (layer / "layer.toml").write_text('remove = ["root/etc/there-is-none"]\n')
    said = place.refused(1, "flash", card.node, "-n", "worker1", "--virtual", "-y", "--base", base)
    assert "/etc/there-is-none is not in the base image" in said
    with card.node.open("rb") as stream:
        assert stream.read(1 << 20) == before
