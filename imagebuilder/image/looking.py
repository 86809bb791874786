"""Looking at the bytes of a card or an image that may come from anywhere, and may be dying.

Every read is held to what is there and to a time limit, so that a parser on top of it may follow whatever
numbers it finds.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system import blockdev


class Unread(PiimgError):
    """Byte ``position`` cannot be read, or not in time; ``problem`` says it in words."""

    def __init__(self, path: Path, position: int, problem: str) -> None:
        super().__init__(f"{path}: {problem}", "try another card or reader")
        self.position = position
        self.problem = problem


class Nonsense(PiimgError):
    """What is there breaks the rules of its format, or is more than is looked through."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path.name}: {problem}", "it may be damaged")


@dataclass(frozen=True)
class Looked:
    """An open card or image of ``size`` bytes. ``deadline`` (time.monotonic) is when looking is given up."""

    path: Path
    handle: int
    size: int
    deadline: float

    def read(self, position: int, length: int) -> bytes:
        """``length`` bytes from ``position``. Raises Unread, and Nonsense for a place that is not there."""
        if position < 0 or length < 0 or position + length > self.size:
            raise Nonsense(self.path, "something in it points behind its end")
        if time.monotonic() > self.deadline:
            raise Unread(self.path, position, "it is read too slowly")
        data = bytearray(length)
        try:
            blockdev.read_at(self.handle, memoryview(data), position)
        except OSError as error:
            problem = f"byte {position} cannot be read ({error.strerror})"
            raise Unread(self.path, position, problem) from error
        return bytes(data)


@contextlib.contextmanager
def looking(path: Path, seconds: float) -> Iterator[Looked]:
    """Open a card or an image to look at it for that long. Raises PiimgError when it cannot be opened."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise PiimgError(f"cannot read {path}: {error.strerror}", "try another card or reader") from error
    try:
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # or each short read becomes a long one
        except OSError as error:
            raise PiimgError(f"cannot read {path}: {error.strerror}", "try another card or reader") from error
        yield Looked(path, handle, size, time.monotonic() + seconds)
    finally:
        os.close(handle)
