"""What was written to the cards of each node, and what changed since, by the history and the kept recipes."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.history.store import Begun, Ended, Event
from imagebuilder.history.written import KEPT, RecipeStore, cards_by_node, changed_since, outdated, recipes_in
from imagebuilder.image.bmap import BLOCK, BlockMap
from imagebuilder.image.content import ImageContent
from imagebuilder.image.recipe import ChangeKind, Recipe, RecipeChange
from tests.unit.history.making import READER, SLOT, run_on

OLD = Recipe("old", {"tool": "1", "base": "b", "node.address": "1", "cluster.hosts": "1"})
NEW = Recipe("new", {"tool": "1", "base": "b", "node.address": "2", "cluster.hosts": "2"})


def image(number: int) -> str:
    """A tree digest."""
    return f"{number:x}".rjust(2, "0").ljust(64, "0")


CHANGES = [RecipeChange(ChangeKind.SETTING, name) for name in ("address", "hosts")]


def source(number: int, recipe: Recipe | None) -> ImageSource:
    content = ImageContent(Path("base.img"), 4096)
    document = {"tree_digest": image(number), "cluster": "mine"}
    return ImageSource(
        "worker1", content, BlockMap(4096, BLOCK, "sha256", ()), (), (), document, recipe=recipe
    )


def of_node(events: list[Event], node: str, image: str = "") -> list[Event]:
    return [
        replace(event, node=node, image=image or event.image)
        if isinstance(event, Begun)
        else replace(event, node=node)
        for event in events
    ]


@pytest.fixture
def kept(tmp_path: Path) -> RecipeStore:
    return recipes_in(tmp_path / "state/mine", tmp_path)


def test_a_recipe_is_kept_by_the_tree_digest_and_private(kept: RecipeStore) -> None:
    kept.keep("worker1", source(1, OLD))
    kept.keep("worker1", source(2, NEW))
    kept.keep("worker10", source(3, OLD))
    kept.keep("worker1", source(4, None))  # an image from elsewhere has no recipe
    found = kept.of("worker1")
    assert {image: one.recipe for image, one in found.items()} == {image(1): OLD, image(2): NEW}
    for file in kept.folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_only_the_last_recipes_are_kept_and_damaged_ones_are_ignored(kept: RecipeStore) -> None:
    for number in range(KEPT + 3):
        kept.keep("worker1", source(number, OLD))
        os.utime(kept.folder / f"worker1-{image(number)[:32]}.recipe", (number, number))
    assert list(kept.of("worker1")) == [image(number) for number in range(KEPT + 2, 2, -1)]
    assert len(list(kept.folder.iterdir())) == KEPT
    for damage in (b"", b"[" * 100_000, b'{"image": 1}', b"\xff"):
        for file in kept.folder.iterdir():
            file.write_bytes(damage)
        assert kept.of("worker1") == {}


def test_a_card_with_its_own_serial_carries_what_was_written_last() -> None:
    events = run_on(SLOT, "a", Verdict.GOOD) + of_node(run_on(SLOT, "b", Verdict.GOOD), "worker2")
    assert list(cards_by_node(events)) == ["worker2"]
    (card,) = cards_by_node(events)["worker2"]
    assert (card.certain, card.done, card.verdict) == (True, True, "good")


def test_in_a_slot_of_a_reader_each_node_has_its_last_run() -> None:
    """Another card may be in the slot each time."""
    events = run_on(READER, "a", Verdict.GOOD) + of_node(run_on(READER, "b", Verdict.BAD), "worker2")
    events += run_on(READER, "c", None)
    found = cards_by_node(events)
    assert [(card.begun.run, card.certain, card.verdict) for card in found["worker1"]] == [
        ("c", False, "interrupted")
    ]
    assert [card.verdict for card in found["worker2"]] == ["bad"]


def test_the_newest_card_is_the_first_and_reading_one_changes_nothing() -> None:
    start, end = run_on(SLOT, "c", Verdict.BAD)
    assert isinstance(end, Ended)
    only_read: list[Event] = [start, replace(end, look="verify")]
    events = run_on(SLOT, "a", Verdict.GOOD) + run_on(READER, "b", Verdict.GOOD) + only_read
    assert [card.begun.run for card in cards_by_node(events)["worker1"]] == ["b", "a"]


def test_what_changed_since(kept: RecipeStore) -> None:
    kept.keep("worker1", source(1, OLD))
    images = kept.of("worker1")
    assert changed_since(image(1), images, OLD) == ()
    assert changed_since(image(1), images, NEW) == CHANGES
    assert changed_since(image(2), images, NEW) is None


def test_the_outdated_nodes_are_those_that_were_flashed(kept: RecipeStore) -> None:
    kept.keep("worker1", source(1, OLD))
    events = of_node(run_on(READER, "a", Verdict.GOOD), "worker1", image(1))
    now = {"worker1": NEW, "worker2": NEW}
    assert outdated(events, kept, now) == {"worker1": CHANGES}
    assert outdated(events, kept, {"worker1": OLD}) == {}
    assert outdated(of_node(run_on(READER, "a", Verdict.BAD), "worker1", image(1)), kept, now) == {}
