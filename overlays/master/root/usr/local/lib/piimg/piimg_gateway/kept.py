"""Small values in /run, which is empty after a reboot, so that a killed service can continue.

Each is the target of a symbolic link: that is written atomically, and needs no space when /run is full.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

RUN = Path("/run/piimg-gateway")


class Kept:
    """The values. ``problem``: why one could not be written, or empty."""

    def __init__(self, folder: Path = RUN) -> None:
        self._folder = folder
        self._words: dict[str, str] = {}
        self.problem = ""

    def prepare(self) -> None:
        """Create the folder, private to root. Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def read(self, name: str) -> str:
        """The value of a name; empty when there is none."""
        try:
            return str((self._folder / name).readlink()).strip()
        except OSError:
            return ""

    def write(self, name: str, words: str) -> None:
        """Write a value; an empty one removes the name. A failure sets ``problem``, and is not raised."""
        if self._words.get(name) == words:
            return
        path = self._folder / name
        new = self._folder / f"{name}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                new.unlink()
            if words:
                new.symlink_to(words)
                new.replace(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self.problem = (
                f"{path}: {error.strerror}: what was switched is forgotten when the service restarts"
            )
            return
        self._words[name] = words
        self.problem = ""
