"""How the tests of cards run piimg: the command line, the nodes, the environment."""

import os
import sys
from collections.abc import Iterable

from imagebuilder.cli.command import COMMANDS
from tests.support.checkout import TOP as TOP

PIIMG = [sys.executable, "-c", "from imagebuilder.cli.main import main; main()"]
NODES = ("master", "worker1", "worker2")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIIMG_")}
    return {**kept, "PYTHONPATH": str(TOP), "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}


def by_images(words: Iterable[object]) -> list[str]:
    """``words`` of a command line, with the node images in build/ where it names no image.

    These tests are about cards: their node images are made by hand, and no node is prepared.
    """
    given = [str(word) for word in words]
    at = next((number for number, word in enumerate(given) if word in COMMANDS), 0)
    if given[at : at + 1] not in (["flash"], ["station"], ["verify"]) or any(
        word.startswith(("--image", "--base", "--help")) for word in given
    ):
        return given
    return [*given[: at + 1], "--images", "build", *given[at + 1 :]]


def command(*words: object) -> list[str]:
    """The command line of piimg ``by_images``."""
    return [*PIIMG, *by_images(words)]
