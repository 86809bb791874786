"""A few words kept in /run, which a reboot empties, so that a service that is killed can go on.

Each is the target of a symbolic link: that is written in one step, and needs no room when /run is full.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

RUN = Path("/run/piimg-gateway")


class Kept:
    """``problem``: why words could not be kept; empty when they were."""

    def __init__(self, folder: Path = RUN) -> None:
        self._folder = folder
        self._words: dict[str, str] = {}
        self.problem = ""

    def prepare(self) -> None:
        """Make the folder, root's alone. Raises OSError when that cannot be."""
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def read(self, name: str) -> str:
        """The words kept under a name; empty for none."""
        try:
            return str((self._folder / name).readlink()).strip()
        except OSError:
            return ""

    def write(self, name: str, words: str) -> None:
        """Keep words; empty ones remove the name. What cannot be written is a ``problem``, no error."""
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
