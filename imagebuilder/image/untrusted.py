"""Bounded reading of cards and images that are not trusted or are failing.

``ext4`` and ``fat`` run the programs of e2fsprogs and mtools, which ``tool_output`` bounds in bytes, memory
and seconds. ``RawReader`` reads bytes for piimg's own parsers. Each program opens the device again, and the
kernel drops its cache of a disk on the last close, so no stale data is read.
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

_MEMORY = 1 << 30  # bytes a program may use; e2fsprogs trust the sizes in a superblock
MESSAGES = 4 << 20  # bytes a program may write to a file, such as its error messages
_KILLED = -9  # the status of a program that took too long

_FLASH = "the card is damaged or has another content: flash it again"

DAMAGED_BASE = "the base image may be damaged: get another copy of it"
"""The hint for a base image with unexpected content."""


class Damaged(PiimgError):
    """The partition ``which`` of ``image`` cannot be read. ``problem`` is the text without its name."""

    def __init__(self, image: Path, which: Partition, problem: str, hint: str = _FLASH) -> None:
        super().__init__(f"{image.name}: {problem}", hint)
        self.image = image
        self.which = which
        self.problem = problem


class TooLarge(Damaged):
    """A file or an output has more bytes than its reader accepts."""

    def __init__(self, image: Path, which: Partition) -> None:
        super().__init__(image, which, "a file or folder in it is too large")


class OutputTooLarge(PiimgError):
    """A program printed more than its limit."""


class ReadError(PiimgError):
    """Byte ``position`` cannot be read, or not in time; ``problem`` is the reason."""

    def __init__(self, path: Path, position: int, problem: str) -> None:
        super().__init__(f"{path}: {problem}", "try another card or reader")
        self.position = position
        self.problem = problem


class InvalidFormat(PiimgError):
    """The content violates its format, or exceeds the limits of its parser."""

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
    largest: int = MESSAGES,
) -> bytes:
    """The output of a program about ``image``, at most ``limit`` bytes, within ``seconds``.

    ``{}`` at the start of a word of ``argv`` stands for ``image``. It is passed as a descriptor, because "@@"
    or "?" in its path would be read as the offset. ``ok`` are the exit statuses of success. ``write`` is for
    programs that write to the image; others write files of at most ``largest`` bytes. Raises ToolError (with
    the output), OutputTooLarge, and PiimgError when ``image`` cannot be read or the program is not installed.
    """
    find(str(argv[0]))
    limits = ["prlimit", f"--as={_MEMORY}", "--core=0", *(() if write else (f"--fsize={largest}",))]
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
    reason = "it took too long" if error.status == _KILLED else error.message
    return Damaged(image, which, f"cannot read its {which} partition: {printable(reason, 120)}")


@dataclass(frozen=True)
class RawReader:
    """An open card or image of ``size`` bytes. Reads fail after ``deadline`` (time.monotonic)."""

    path: Path
    handle: int
    size: int
    deadline: float

    def read(self, position: int, length: int) -> bytes:
        """``length`` bytes from ``position``. Raises ReadError, and InvalidFormat beyond the end."""
        if position < 0 or length < 0 or position + length > self.size:
            raise InvalidFormat(self.path, "its data refers to bytes beyond its end")
        if time.monotonic() > self.deadline:
            raise ReadError(self.path, position, "reading it takes too long")
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
        hint = blockdev.rights_hint(path, error, "try another card or reader")
        raise PiimgError(f"cannot read {path}: {error.strerror}", hint) from error
    try:
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        except OSError as error:
            hint = blockdev.rights_hint(path, error, "try another card or reader")
            raise PiimgError(f"cannot read {path}: {error.strerror}", hint) from error
        yield RawReader(path, handle, size, time.monotonic() + seconds)
    finally:
        os.close(handle)
