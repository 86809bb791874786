"""This checkout, and copies of it."""

import shutil
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
DATA = TOP / "tests" / "data"
DEVICES = DATA / "devices"
"""What udev said of real disks and readers, and signatures of file systems."""

_NOT_COPIED = (".git", ".venv", ".cache", ".*_cache", "__pycache__", "dist", "build", "state", ".hypothesis")


def copy_checkout(folder: Path) -> None:
    """Copy what is in the checkout to ``folder``, without what was made in it."""
    shutil.copytree(TOP, folder, ignore=shutil.ignore_patterns(*_NOT_COPIED))
