"""What is typed while bars are drawn: read key by key, and shown by whoever draws."""

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
        """What was typed of a line so far."""
        return self._typed.decode("utf-8", "replace")

    def forget(self) -> None:
        """Take what was typed until now for nothing."""
        self._typed = b""
        if self.handle is not None:
            with contextlib.suppress(termios.error):
                termios.tcflush(self.handle, termios.TCIFLUSH)

    def line(self) -> str | None:
        """Take in what was typed; the line when it was ended. What is typed behind its end is forgotten."""
        assert self.handle is not None, "nobody types where there is no terminal"
        try:
            data = os.read(self.handle, 1024)
        except OSError:
            data = b""
        if not data:
            self.handle = None  # the terminal went away
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
        """Have the terminal as it was. Safe from a signal handler."""
        if self.handle is not None and self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.handle, termios.TCSANOW, self._before)


@contextlib.contextmanager
def keys() -> Iterator[Keys]:
    """The keys of standard input, if that is a terminal. Ctrl-C stays what it is."""
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
