"""A real terminal of a given size, and what stands on its screen: a pty, read by the emulator pyte."""

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import pyte


class Window:
    """The screen of a terminal. ``side`` is the file descriptor that a program has its terminal at."""

    def __init__(self, columns: int, rows: int) -> None:
        self.main, self.side = pty.openpty()
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        """Make the window another size, as a user does with the mouse."""
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def read(self, seconds: float = 0.0) -> bool:
        """Take in what was written, waiting up to ``seconds`` for it; False when there is nothing."""
        ready, _, _ = select.select([self.main], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self.main, 65536)
        except OSError:  # the program has ended
            return False
        self._stream.feed(data)
        return bool(data)

    def settle(self, seconds: float = 0.5) -> None:
        """Take in all that is written within ``seconds``."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.read(left)

    def wait_for(self, wanted: Callable[[list[str]], bool], seconds: float = 30.0) -> list[str]:
        """Read until there are lines on the screen, as wanted, and nothing more comes; give them."""
        deadline = time.monotonic() + seconds
        while self.read(0.1) or not (self.lines and wanted(self.lines)):
            assert time.monotonic() < deadline, "\n".join(self.lines)
        return self.lines

    @property
    def lines(self) -> list[str]:
        """The lines of the screen down to the last one that is not empty."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def everything(self) -> list[str]:
        """The lines that were scrolled away, and those of the screen."""
        columns = self.screen.columns
        gone = ["".join(line[at].data for at in range(columns)).rstrip() for line in self.screen.history.top]
        return gone + self.lines


@contextmanager
def window(columns: int, rows: int) -> Iterator[tuple[Window, IO[str]]]:
    """A terminal, and a stream that writes to it."""
    opened = Window(columns, rows)
    try:
        with os.fdopen(opened.side, "w", encoding="utf-8", closefd=True) as stream:
            yield opened, stream
    finally:
        os.close(opened.main)
