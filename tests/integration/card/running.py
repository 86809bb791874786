"""How the tests of the card wing run piimg: the command line, the nodes, the environment."""

import os
import sys

from tests.support.checkout import TOP as TOP

PIIMG = [sys.executable, "-c", "from imagebuilder.cli.main import main; main()"]
NODES = ("master", "worker1", "worker2")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIIMG_")}
    return {**kept, "PYTHONPATH": str(TOP), "TERM": "xterm", "COLUMNS": "100"}
