"""Cards that change while the question is open: each is looked at again once it is answered."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import carried
from imagebuilder.device.inventory import survey, survey_again
from imagebuilder.system.process import run
from tests.integration.card.conftest import MakeCard
from tests.integration.card.test_rounds import put_in
from tests.integration.card.test_terminal import Terminal, terminal

__all__ = ["terminal"]
START = Callable[..., Terminal]


@contextmanager
def mounted(card: Disk, point: Path) -> Iterator[None]:
    """The card with its ext4 mounted at ``point``, as somebody else may do."""
    point.mkdir()
    run(["mount", card.node, point])
    try:
        yield
    finally:
        run(["umount", point])


def start(card: Disk) -> bytes:
    with Path(card.backing).open("rb") as stream:
        return stream.read(1024)


def test_a_card_that_is_mounted_meanwhile_is_refused(
    card: Disk, terminal: START, tmp_path: Path, root: None
) -> None:
    run(["mkfs.ext4", "-q", "-F", card.node, "64m"])
    before, point = start(card), tmp_path / "point"
    window = terminal("flash", card.node, "--node", "worker1", "--virtual")
    window.wait_for("Erase this card?")
    with mounted(card, point):
        window.type("y\n")
        status, said = window.end()
    assert status == 2, said
    assert f"{card.node} is not written to: {card.node.name} is mounted at {point}" in " ".join(said.split())
    assert "VERDICT" not in said
    assert start(card) == before


def test_a_card_that_gets_another_content_meanwhile_is_refused(
    card: Disk, images: Path, terminal: START, root: None
) -> None:
    """Another program wrote a node to it, and let go of it: the kernel sees no change."""
    window = terminal("flash", card.node, "--node", "worker1", "--virtual")
    window.wait_for("Erase this card?")
    run(["dd", f"if={images / 'worker2.img'}", f"of={card.node}", "bs=1M", "conv=fsync", "status=none"])
    run(["blockdev", "--flushbufs", card.node])
    window.type("y\n")
    status, said = window.end()
    assert status == 2, said
    assert "carries worker2 of picluster now, and carried no node when you were asked" in " ".join(
        said.split()
    )
    assert carried(card.node).node == "worker2"


def test_a_card_that_is_replaced_meanwhile_leaves_the_others_alone(
    make_card: MakeCard, terminal: START, tmp_path: Path, root: None
) -> None:
    stays, swapped, other = make_card(), make_card(), tmp_path / "other"
    other.touch()
    os.truncate(other, swapped.size)
    mine = Path(swapped.backing)
    window = terminal("flash", "--all", stays.node, swapped.node, "--virtual")
    window.wait_for("Erase these 2 cards?")
    put_in(swapped, other)
    try:
        window.type("y\n")
        status, said = window.end()
        assert status == 2, said
        assert f"{swapped.node} is no longer the selected card" in " ".join(said.split())
        assert [file.stat().st_blocks for file in (Path(stays.backing), mine, other)] == [0, 0, 0]
    finally:
        put_in(swapped, mine)


def test_looking_again_gives_who_uses_the_card_now(card: Disk, tmp_path: Path, root: None) -> None:
    run(["mkfs.ext4", "-q", "-F", card.node, "64m"])
    (seen,) = survey([card], virtual=True)
    point = tmp_path / "point"
    assert seen.refusals == () and not seen.holdings
    with mounted(card, point):
        (now,) = survey_again([seen], virtual=True)
    assert [held.point for held in now.holdings] == [str(point)] and now.refusals
