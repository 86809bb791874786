"""Run programs for the scripts that install and package piimg, and get the time of the files they make."""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent


def run(*argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """The output of a program. Its errors are shown; raises CalledProcessError."""
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, env={**os.environ, **(env or {})}, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def epoch() -> int:
    """$SOURCE_DATE_EPOCH, else the time of the last commit, else now; in seconds since 1970."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    words = ["git", "-c", f"safe.directory={TOP}", "-C", str(TOP), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return int(time.time())
