"""Find the programs that have a block device open, and whether for writing, without opening any device.

Sources: proc(5) for /proc/PID/fd, whose links have the modes of the open file in their permission bits, and
for the lines ``lock:`` of /proc/PID/fdinfo; statx(2); inotify(7). The limits of this are in docs/safety.md.
"""

import contextlib
import ctypes
import os
import stat
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.text import printable

_PATIENCE = 1.0  # seconds; some programs open a disk for writing for a moment, without writing
_AT_FDCWD, _AT_STATX_DONT_SYNC, _STATX_TYPE = -100, 0x4000, 1
_IN_CLOSE_WRITE = 8

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Opener:
    """A process that has the block device with the number ``rdev`` open.

    ``locked`` is whether it has an exclusive flock on it, as another piimg has.
    """

    rdev: int
    program: str
    pid: int
    writing: bool
    locked: bool = False

    def __str__(self) -> str:
        return f"{self.program} (process {self.pid})"


def openers() -> list[Opener]:
    """Every block device open in another process, as far as this user may see it, ordered by process id."""
    processes = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    every = [opener for pid in processes if pid != os.getpid() for opener in _of_process(pid)]
    return list(dict.fromkeys(every))


def strangers() -> list[Opener]:
    """As ``openers``, without the descendants of this process."""
    return [opener for opener in openers() if not _is_descendant(opener.pid)]


def settled(rdevs: Collection[int]) -> list[Opener]:
    """As ``strangers``, once no other program has one of ``rdevs`` open for writing, or after a second.

    A program that has it locked is not waited for: it uses the disk for longer, such as another piimg.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        every = strangers()
        wait = any(opener.writing and not opener.locked and opener.rdev in rdevs for opener in every)
        if not wait or time.monotonic() >= deadline:
            return every
        time.sleep(0.1)


def with_partitions(rdev: int) -> dict[int, Path]:
    """The number and the device file of the whole disk ``rdev`` and of each of its partitions."""
    system = Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}").resolve()
    nodes = {rdev: _node(system)}
    with contextlib.suppress(OSError):
        for part in sorted(system.iterdir()):
            if (part / "partition").exists():
                major, minor = (part / "dev").read_text().split(":")
                nodes[os.makedev(int(major), int(minor))] = _node(part)
    return nodes


class OpenerWatch:
    """Watches a whole disk and its partitions for other programs that could write to it.

    Close it at the end. ``device`` is its device file, ``rdev`` its number.
    """

    def __init__(self, device: Path, rdev: int) -> None:
        self._rdev = rdev
        self._events = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for node in {device, *with_partitions(rdev).values()} if self._events >= 0 else ():
            _libc.inotify_add_watch(self._events, os.fsencode(node), _IN_CLOSE_WRITE)

    def begin(self) -> Sequence[Opener]:
        """The programs that can write to the disk now. Earlier events are discarded."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            self._closed()
            writers = self._writers()
            if not writers or time.monotonic() >= deadline:
                return writers
            time.sleep(0.1)

    def since(self) -> str:
        """The programs that can write to the disk, or could since ``begin``, in words; empty when none."""
        writers = ", ".join(map(str, self._writers()))
        return writers or ("a program that has closed it since" if self._closed() else "")

    def _writers(self) -> list[Opener]:
        rdevs = with_partitions(self._rdev)
        return [opener for opener in strangers() if opener.writing and opener.rdev in rdevs]

    def _closed(self) -> bool:
        """Whether a program that had it open for writing closed it, since the last call."""
        try:
            return self._events >= 0 and bool(os.read(self._events, 1 << 16))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Stop watching."""
        if self._events >= 0:
            os.close(self._events)


def _node(system: Path) -> Path:
    return Path("/dev") / system.name.replace("!", "/")


def _of_process(pid: int) -> Iterator[Opener]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 – thousands of entries per call
    except OSError:
        return  # it has ended, or is another user's
    for name in names:
        link = f"/proc/{pid}/fd/{name}"
        rdev = _block_device(link)
        if rdev is not None:
            with contextlib.suppress(OSError):
                yield Opener(rdev, _program(pid), pid, _is_for_writing(link), _is_locked(pid, name))


def _block_device(link: str) -> int | None:
    """The number of the block device that ``link`` refers to, or None.

    With statx(2) no server is asked: stat(2) would hang for a file on a dead network file system.
    """
    answer = ctypes.create_string_buffer(256)
    if _libc.statx(_AT_FDCWD, link.encode(), _AT_STATX_DONT_SYNC, _STATX_TYPE, answer) != 0:
        return None
    (mode,) = struct.unpack_from("=H", answer, 28)  # stx_mode
    return os.makedev(*struct.unpack_from("=II", answer, 128)) if stat.S_ISBLK(mode) else None  # stx_rdev_…


def _is_for_writing(link: str) -> bool:
    return bool(os.lstat(link).st_mode & stat.S_IWUSR)


def _is_locked(pid: int, name: str) -> bool:
    lines = Path(f"/proc/{pid}/fdinfo/{name}").read_text().splitlines()
    return any(line.startswith("lock:") and {"FLOCK", "WRITE"} <= set(line.split()) for line in lines)


def _program(pid: int) -> str:
    """The name of a program, which it can set to any text."""
    name = Path(f"/proc/{pid}/comm").read_bytes().decode("utf-8", "replace").strip()
    return printable(name, None)


def _is_descendant(pid: int) -> bool:
    """Whether a process descends from this one."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            # The fields after the name in parentheses, which may contain anything: state, parent, …
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            return False
    return False
