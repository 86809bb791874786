"""`piimg verify`: what an older card was flashed from, by the types of the changes, not by their words."""

import pytest

from imagebuilder.cli.card_comparison import Older
from imagebuilder.image.recipe import ChangeKind, RecipeChange


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (RecipeChange(ChangeKind.SETTING, "vars"), "manifest: vars"),
        (RecipeChange(ChangeKind.REINSTALLED), "manifest: packages installed anew"),
        (RecipeChange(ChangeKind.PATH, "root/srv/what changed"), "manifest: root/srv/what changed"),
        (RecipeChange(ChangeKind.PATH, "root/a of the layer b"), "manifest: root/a of the layer b"),
        (RecipeChange(ChangeKind.TIME), "image: the time"),
        (RecipeChange(ChangeKind.BASE), "image: another base image"),
        (RecipeChange(ChangeKind.ENTRY, "root/a of the layer b"), "image: root/a of the layer b"),
    ],
)
def test_what_it_was_flashed_from(change: RecipeChange, text: str) -> None:
    assert Older((change,)).text == f"flashed from an older {text}"


def test_without_known_changes_it_is_an_older_image() -> None:
    assert Older(()).text == "flashed from an older image"


def test_one_change_of_the_image_among_others_counts() -> None:
    found = (RecipeChange(ChangeKind.SETTING, "vars"), RecipeChange(ChangeKind.PIIMG))
    assert Older(found).text == "flashed from an older image: vars, another version of piimg"
