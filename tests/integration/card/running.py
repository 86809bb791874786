"""How the tests of the card wing run piimg: the command line, the nodes, the environment."""

import os
import sys
from pathlib import Path

PIIMG = [sys.executable, "-c", "from imagebuilder.cli.main import main; main()"]
TOP = Path(__file__).resolve().parents[2]
NODES = ("master", "worker1", "worker2")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIIMG_")}
    return {**kept, "PYTHONPATH": str(TOP), "TERM": "xterm", "COLUMNS": "100"}
