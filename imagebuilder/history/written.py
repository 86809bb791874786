"""What was written to the cards of each node: recipes of the written images, and the last run on each card.

A recipe (image/recipe.py) says what a node image was made of, and so what changed since. It is saved for the
last few images of a node, by the tree digest that the history has, beside their block maps. It has digests of
secrets, so its file is 0600.
"""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from imagebuilder.card.report import Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.history.block_maps import name_of, newest_of, written_in
from imagebuilder.history.store import Begun, Ended, Event, Run
from imagebuilder.image.recipe import ChangeKind, Recipe, RecipeChange, changes
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.system import files

KEPT = 8  # recipes per node; the oldest ones are removed

_DONE = (Verdict.GOOD, Verdict.UNVERIFIED)


@dataclass(frozen=True)
class WrittenImage:
    """An image that was written: its tree digest ``image``, its ``recipe``, and the name of its block map."""

    image: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    recipe: Recipe
    block_map: str


_IMAGE = TypeAdapter(WrittenImage)


@dataclass(frozen=True)
class RecipeStore:
    """The recipes in ``folder``. New files and folders get the owner of ``home``."""

    folder: Path
    home: Path

    def keep(self, node: str, source: ImageSource) -> None:
        """Save the recipe of an image that was written for ``node``, if it is known. Raises OSError."""
        if source.recipe is None or not re.fullmatch("[0-9a-f]{64}", source.tree_digest):
            return
        kept = WrittenImage(source.tree_digest, source.recipe, name_of(source))
        path = self.folder / f"{node}-{source.tree_digest[:32]}.recipe"
        files.make_private(self.folder, self.home)
        files.write(path, json.dumps(asdict(kept)).encode(), 0o600)
        files.hand_over(path, self.home)
        for old in newest_of(self.folder, node, "recipe")[KEPT:]:
            old.unlink(missing_ok=True)

    def of(self, node: str) -> dict[str, WrittenImage]:
        """The images that were written for ``node``, by tree digest, the newest first."""
        found: dict[str, WrittenImage] = {}
        for path in newest_of(self.folder, node, "recipe")[:KEPT]:
            with contextlib.suppress(OSError, ValidationError, RecursionError):  # ignore a damaged file
                kept = _IMAGE.validate_json(read_regular(path, LARGE))
                found.setdefault(kept.image, kept)
        return found


def recipes_in(state: Path, home: Path) -> RecipeStore:
    """The recipes of the cluster with the state folder ``state`` and the cluster folder ``home``."""
    return RecipeStore(written_in(state), home)


@dataclass(frozen=True)
class WrittenCard:
    """A card to which a node was written. ``certain`` is False where only the slot of the card is known: then
    another card may have been written there since."""

    begun: Begun
    ended: Ended | None
    certain: bool

    @property
    def done(self) -> bool:
        """Whether the card was written as requested."""
        return self.ended is not None and self.ended.verdict in _DONE

    @property
    def verdict(self) -> str:
        """The verdict in a word: a run without an end was interrupted, or still runs."""
        if self.ended is not None:
            return self.ended.verdict.value
        return "being written" if Run(self.begun).under_way else Verdict.INTERRUPTED.value

    @property
    def time(self) -> str:
        """When the run ended, or began (UTC, ISO 8601)."""
        return self.ended.time if self.ended else self.begun.time


def cards_by_node(events: Sequence[Event]) -> dict[str, list[WrittenCard]]:
    """The cards that each node was written to, as far as they carry it still, the newest first.

    A card with its own serial carries what was written to it last. In a slot of a reader the last run of each
    node counts. Runs that only read a card do not count.
    """
    runs: dict[str, WrittenCard] = {}
    for event in events:
        if isinstance(event, Begun):
            runs[event.run] = WrittenCard(event, None, event.key.startswith(("sd ", "file ")))
        elif event.look:
            runs.pop(event.run, None)
        elif event.run in runs:
            runs[event.run] = WrittenCard(runs[event.run].begun, event, runs[event.run].certain)
    last: dict[tuple[str, str, int], WrittenCard] = {}
    for run in runs.values():
        key = (run.begun.key, "", 0) if run.certain else (run.begun.key, run.begun.node, run.begun.size)
        last.pop(key, None)
        last[key] = run
    found: dict[str, list[WrittenCard]] = {}
    for run in reversed(last.values()):
        if run.begun.node:
            found.setdefault(run.begun.node, []).append(run)
    return found


def good_card(cards: Sequence[WrittenCard]) -> WrittenCard | None:
    """The card of a node, whose ``cards`` are given, the newest first; None when the last one is not good.

    An older good card does not count then: in a reader it can be the same card that failed later.
    """
    return cards[0] if cards and cards[0].done else None


def changed_since(image: str, kept: Mapping[str, WrittenImage], now: Recipe) -> Sequence[RecipeChange] | None:
    """What changed since ``image`` (a tree digest) was written: none if it is what ``now`` gives.

    None when that is not known: the recipe of the image was not kept.
    """
    before = kept.get(image)
    if before is None:
        return None
    if before.recipe.name == now.name:
        return ()
    return changes(before.recipe.parts, now) or [RecipeChange(ChangeKind.FILES)]


def outdated(
    events: Sequence[Event], recipes: RecipeStore, now: Mapping[str, Recipe]
) -> dict[str, Sequence[RecipeChange]]:
    """The nodes whose last good card has another image than ``now`` gives, and what changed since."""
    cards = cards_by_node(events)
    found = {}
    for node, recipe in now.items():
        card = next((card for card in cards.get(node, ()) if card.done), None)
        changed = changed_since(card.begun.image, recipes.of(node), recipe) if card else None
        if changed:
            found[node] = changed
    return found
