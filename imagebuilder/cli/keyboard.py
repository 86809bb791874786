"""Keyboard input while bars are drawn: read key by key, without echo."""

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_ENTER, _ERASE, _LINE_AWAY = b"\r\n", b"\x7f\x08", 0x15
_LONGEST = 100  # bytes of a line


@dataclass
class Keys:
    """A terminal whose keys are not echoed; ``handle`` is None where there is none."""

    handle: int | None
    _typed: bytes = b""
    _before: list[Any] | None = None

    @property
    def text(self) -> str:
        """The line typed so far."""
        return self._typed.decode("utf-8", "replace")

    def forget(self) -> None:
        """Discard the keys typed until now."""
        self._typed = b""
        if self.handle is not None:
            with contextlib.suppress(termios.error):
                termios.tcflush(self.handle, termios.TCIFLUSH)

    def line(self) -> str | None:
        """Read typed keys; return the line when Enter was pressed. Keys after Enter are discarded."""
        assert self.handle is not None, "there is a terminal"
        try:
            data = os.read(self.handle, 1024)
        except OSError:
            data = b""
        if not data:
            self.handle = None  # the terminal was lost
        for key in data:
            if key in _ENTER:
                text = self.text
                self.forget()
                return text
            if key in _ERASE:
                self._typed = self.text[:-1].encode()
            elif key == _LINE_AWAY:
                self._typed = b""
            elif key >= 0x20 and len(self._typed) < _LONGEST:
                self._typed += bytes([key])
        return None

    def give_back(self) -> None:
        """Restore the terminal settings. Safe in a signal handler."""
        if self.handle is not None and self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.handle, termios.TCSANOW, self._before)


@contextlib.contextmanager
def keys() -> Iterator[Keys]:
    """The keys of standard input, if it is a terminal. Ctrl-C still sends SIGINT."""
    try:
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (OSError, ValueError, AttributeError, termios.error):
        yield Keys(None)
        return
    found = Keys(handle, _before=before)
    try:
        tty.setcbreak(handle, termios.TCSANOW)
        yield found
    finally:
        found.give_back()
