"""A block of lines at the cursor of a terminal, painted repeatedly in place.

A block is painted in one write, so it does not flicker. Between two paintings the cursor is at the beginning
of the first line: from there everything below can be cleared, however the terminal wraps or truncates lines
when its window becomes narrower. tqdm draws the bars, but does not paint them: it uses a write for each bar,
pads it with spaces to its former length, which wraps in a narrower window, and hides the last bars (and so
the line of the whole batch) when there are more bars than rows.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from typing import IO

_CLEAR_BELOW, _CLEAR_LINE = "\x1b[J", "\x1b[K"


class Screen:
    """A terminal that ``stream`` writes to. Not thread-safe."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._painted: tuple[int, int, Sequence[str]] = (0, 0, ())

    @property
    def size(self) -> tuple[int, int]:
        """Current columns and rows; if unknown (a pipe) from the environment, else 80 and 24."""
        with contextlib.suppress(OSError, ValueError):
            columns, rows = os.get_terminal_size(self._stream.fileno())
            if columns and rows:
                return columns, rows
        return shutil.get_terminal_size()

    @property
    def below(self) -> str:
        """The text that moves the cursor below the block."""
        return "\r" + "\n" * len(self._painted[2])

    def paint(self, lines: Sequence[str], above: Sequence[str] = (), last: bool = False) -> None:
        """Paint the block again, after printing the lines ``above`` it.

        Each line of the block must be narrower than the terminal; those above may wrap. ``last``: move the
        cursor below the block, which is then not painted again.
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
        # A lost terminal must not fail a card.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
        self._painted = block
