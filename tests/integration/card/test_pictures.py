"""The pictures of terminals in docs/pictures are what the commands print now; `make pictures` renews them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.card.pictures import CARDS, Studio, scenes
from tests.integration.card.rig import Rig, require
from tests.support.checkout import TOP
from tests.support.picture import Picture, comparable, kept_text, svg

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root"),
    pytest.mark.timeout(300),
]

PICTURES = TOP / "docs" / "pictures"


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, specimen: Callable[[str], Path]
) -> Iterator[Mapping[str, Picture]]:
    """All pictures, of one run of the commands."""
    require()
    folder = tmp_path_factory.mktemp("pictures")
    with ExitStack() as stack:
        yield scenes(Studio(folder, specimen("trixie")), Rig(folder, stack))


@pytest.mark.parametrize("name", ["plan", "cards", "flash", "flashed", "status"])
def test_it_is_what_the_command_prints_now(made: Mapping[str, Picture], name: str) -> None:
    file = PICTURES / f"{name}.svg"
    if os.environ.get("PIIMG_WRITE_PICTURES") == "1":
        file.write_text(svg(made[name]))
    kept, now = kept_text(file.read_text()), made[name].text
    if name == "cards":
        kept, now = only_cards(kept), only_cards(now)
    kept, now = comparable(kept), comparable(now)
    assert kept == now, f"docs/pictures/{file.name} is not what piimg prints now: make pictures"


def only_cards(text: str) -> str:
    """The heads of the table and the cards in it: the other disks are those of the machine."""
    lines = [line for line in text.splitlines() if line.startswith(("$", "SLOT")) or " 32.0 GB " in line]
    assert len(lines) >= 2 + CARDS
    return "\n".join(lines[: 2 + CARDS])
