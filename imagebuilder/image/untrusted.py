"""Bounds for reading cards and images that may come from anywhere, and may be dying.

``ext4`` and ``fat`` read files through the programs of e2fsprogs and mtools, which ``tool_output`` bounds in
bytes, memory and seconds. ``RawReader`` reads bytes, for parsers of our own. The programs open the device
anew each time, and the kernel drops its cache of a disk when the last user closes it: nothing stale is read.
"""

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.model import Partition
from imagebuilder.system import blockdev
from imagebuilder.system.process import ToolError, find, streaming
from imagebuilder.text import printable

_MEMORY = 1 << 30  # bytes a program may take; e2fsprogs believe what a superblock says of its size
_MESSAGES = 4 << 20  # bytes a program may write to a file, as its error messages are
_KILLED = -9  # the status of a program that took too long

_FLASH = "the card is damaged, or not what it says: flash it again"


class Damaged(PiimgError):
    """The partition ``which`` of ``image`` cannot be read."""

    def __init__(self, image: Path, which: Partition, message: str, hint: str = _FLASH) -> None:
        super().__init__(message, hint)
        self.image = image
        self.which = which


class TooLarge(Damaged):
    """What was asked for has more bytes than its reader takes."""

    def __init__(self, image: Path, which: Partition) -> None:
        super().__init__(image, which, f"{image.name} holds more than it should in one place")


class OutputTooLarge(PiimgError):
    """A program printed more than it should have."""


class ReadError(PiimgError):
    """Byte ``position`` cannot be read, or not in time; ``problem`` says why."""

    def __init__(self, path: Path, position: int, problem: str) -> None:
        super().__init__(f"{path}: {problem}", "try another card or reader")
        self.position = position
        self.problem = problem


class InvalidFormat(PiimgError):
    """The content breaks the rules of its format, or is larger than the bounds of its parser."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path.name}: {problem}", "it may be damaged")


def tool_output(
    argv: Sequence[str | Path],
    image: Path,
    limit: int,
    seconds: float,
    *,
    env: Mapping[str, str] | None = None,
    ok: Collection[int] = (0,),
    pass_fds: tuple[int, ...] = (),
    write: bool = False,
) -> bytes:
    """What a program prints about ``image``, at most ``limit`` bytes, within ``seconds``.

    ``{}`` at the start of a word of ``argv`` stands for ``image``. It is named by descriptor: "@@" or "?" in
    its path would be taken for the offset. ``ok`` are the exit statuses that are no failure. ``write`` is for
    programs that write to the image. Raises ToolError (with what was printed), OutputTooLarge, and PiimgError
    when ``image`` cannot be read or the program is not installed.
    """
    find(str(argv[0]))
    limits = ["prlimit", f"--as={_MEMORY}", "--core=0", *(() if write else (f"--fsize={_MESSAGES}",))]
    printed = b""
    try:
        with image.open("r+b" if write else "rb") as stream:
            opened = f"/dev/fd/{stream.fileno()}"
            words = [opened + word[2:] if word.startswith("{}") else word for word in map(str, argv)]
            with streaming(
                [*limits, *words], env=env, pass_fds=(stream.fileno(), *pass_fds), patience=seconds
            ) as output:
                printed = output.read(limit + 1)
                if len(printed) > limit:
                    raise OutputTooLarge(f"{argv[0]} prints too much about {image.name}", "it may be damaged")
    except ToolError as error:
        if error.status not in ok:
            error.stdout = printed
            error.message = error.message.removeprefix("prlimit: ")
            raise
    except OSError as error:
        raise PiimgError(
            f"cannot read {image}: {error.strerror}", "check the path and its permissions"
        ) from error
    return printed


def unreadable(image: Path, which: Partition, error: ToolError) -> Damaged:
    """The error for a partition that a program could not read, or not in time."""
    said = "it took too long" if error.status == _KILLED else error.message
    return Damaged(image, which, f"cannot read the {which} partition of {image.name}: {printable(said, 120)}")


@dataclass(frozen=True)
class RawReader:
    """An open card or image of ``size`` bytes. ``deadline`` (time.monotonic) is when reading ends."""

    path: Path
    handle: int
    size: int
    deadline: float

    def read(self, position: int, length: int) -> bytes:
        """``length`` bytes from ``position``. Raises ReadError, and InvalidFormat behind the end."""
        if position < 0 or length < 0 or position + length > self.size:
            raise InvalidFormat(self.path, "something in it points behind its end")
        if time.monotonic() > self.deadline:
            raise ReadError(self.path, position, "it is read too slowly")
        data = bytearray(length)
        try:
            blockdev.read_at(self.handle, memoryview(data), position)
        except OSError as error:
            problem = f"byte {position} cannot be read ({error.strerror})"
            raise ReadError(self.path, position, problem) from error
        return bytes(data)


@contextlib.contextmanager
def raw_reader(path: Path, seconds: float) -> Iterator[RawReader]:
    """Open a card or an image to read from it for ``seconds``. Raises PiimgError when it cannot be opened."""
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
        yield RawReader(path, handle, size, time.monotonic() + seconds)
    finally:
        os.close(handle)
