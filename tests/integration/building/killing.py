"""Preparations that are killed, one after another: run as a program, as it forks.

    python -m tests.integration.building.killing IMAGE PLACE FOLDER TIMES

Prints, for each time, what could be used afterwards: the name of the content, or "nothing".
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from imagebuilder.events import Silent
from imagebuilder.image.base.opening import Base
from imagebuilder.image.prepare import bench, fitted_recipe
from imagebuilder.image.prepared import PreparedFiles, load
from tests.integration.building.preparing import Preparer, entry, opened
from tests.support.cluster import Place

CONTENTS = {"old": b"old\n" * 3000, "new": b"new\n" * 9000}
ENTRIES = {
    name: (
        entry("root/etc/content", "file", content=content),
        entry("boot/content.txt", "file", content=content),
    )
    for name, content in CONTENTS.items()
}


def prepare(base: Base, place: Place, folder: Path, name: str) -> None:
    """Prepare worker1 with one of the two contents."""
    with bench(base, folder, Silent()) as shared:
        Preparer(base, place, folder, shared).prepare(ENTRIES[name])


def killed(base: Base, place: Place, folder: Path, name: str, after: float) -> None:
    """Begin to prepare worker1 in a process of its own, and kill that ``after`` some seconds."""
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            prepare(base, place, folder, name)
        finally:
            os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def usable(base: Base, place: Place, folder: Path) -> str:
    """Which content the prepared node has; it must have it in full."""
    node = load(PreparedFiles(folder, "worker1"), base.file, base.digest)
    if node is None:
        return "nothing"
    cluster = place.workspace.cluster
    for name, entries in ENTRIES.items():
        plan = Preparer(base, place, folder, None).plan(entries)  # type: ignore[arg-type]
        if fitted_recipe(cluster, plan, base)[1].name == node.recipe.name:
            assert node.content.changes is not None
            blocks = node.content.changes.read_bytes()
            others = [content for other, content in CONTENTS.items() if other != name]
            assert CONTENTS[name][:4000] in blocks and not any(one[:4000] in blocks for one in others)
            return name
    raise AssertionError("it is of no recipe")


def main() -> None:
    image, where, folder = map(Path, sys.argv[1:4])
    base, place = opened(image), Place(where, where.parent / "cache")
    chance = random.Random(16)
    begun = time.monotonic()
    prepare(base, place, folder, "old")
    whole = time.monotonic() - begun
    for number in range(int(sys.argv[4])):
        killed(base, place, folder, ("new", "old")[number % 2], whole * 1.3 * chance.random())
        print(usable(base, place, folder), flush=True)


if __name__ == "__main__":
    main()
