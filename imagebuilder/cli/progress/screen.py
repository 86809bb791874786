"""A block of lines at the cursor of a terminal, painted over and over.

A block goes out in one write, line over line, so that nothing flickers. Between two paintings the cursor
stands at the beginning of its first line: from there everything below can be cleared, however a terminal
breaks or cuts the lines when its window becomes narrower. tqdm makes the bars, but does not paint them: it
does so by a write for each, pads each with spaces to its former length, which wraps in a narrower window, and
hides the last ones, that of the whole batch among them, when there are more than rows.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from typing import IO

_CLEAR_BELOW, _CLEAR_LINE = "\x1b[J", "\x1b[K"


class Screen:
    """A terminal that ``stream`` writes to. Not thread-safe: its owner sees to that."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._painted: tuple[int, int, Sequence[str]] = (0, 0, ())

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows now; where they are unknown (a pipe) as the environment says, or 80 and 24."""
        with contextlib.suppress(OSError, ValueError):
            columns, rows = os.get_terminal_size(self._stream.fileno())
            if columns and rows:
                return columns, rows
        return shutil.get_terminal_size()

    @property
    def below(self) -> str:
        """What moves the cursor below the block."""
        return "\r" + "\n" * len(self._painted[2])

    def paint(self, lines: Sequence[str], above: Sequence[str] = (), last: bool = False) -> None:
        """Paint the block anew, after printing the lines ``above`` it.

        Each line of the block must be narrower than the terminal; those above may wrap. ``last``: the cursor
        ends up below, and the block stays as it is.
        """
        columns, rows = self.size
        block = (columns, rows, tuple(lines))
        if block == self._painted and not above and not last:
            return
        text = "\r"
        if above or (columns, rows) != self._painted[:2]:
            text += _CLEAR_BELOW
        text += "".join(f"{line}\n" for line in above)
        text += f"{_CLEAR_LINE}\n".join(lines) + _CLEAR_BELOW
        if last:
            text += "\n" if lines else ""
            block = (0, 0, ())
        elif len(lines) > 1:
            text += f"\r\x1b[{len(lines) - 1}A"
        else:
            text += "\r"
        # A terminal that went away is no reason to fail a card.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
        self._painted = block
