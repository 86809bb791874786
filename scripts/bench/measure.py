"""Running what is measured: wall time, processor time of the whole process tree, memory, and what the cards
saw of it by the kernel's own counters."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from bench.cards import Card
from imagebuilder.system.process import environment

Words = Sequence[str | Path]
"""A command line."""

_STEP = 0.5  # seconds between two reads of the counters
_TICK = 0.02  # seconds; the resolution of wall times
_DISK_STEP = 0.1  # seconds between two looks at the disk space of a folder
_PATIENCE = 10.0  # seconds until a stopped program must have ended


@dataclass
class Seen:
    """What one card saw: bytes read and written in all, and (seconds, read, written) over time."""

    read: int = 0
    written: int = 0
    over_time: list[tuple[float, int, int]] = field(default_factory=list)


@dataclass
class Run:
    """One measured run. ``cpu`` in core-seconds (user and system), ``rss`` in bytes, summed over what ran at
    the same time; ``busy`` the cores that the whole machine kept busy meanwhile.

    ``fetched`` are the bytes that the programs had read from disks, those of the cards included. ``disk`` is
    how many bytes of disk the watched folder took more than at the start: the most meanwhile, and at the end.
    """

    seconds: float
    cpu: float
    rss: int
    busy: float
    statuses: list[int]
    seen: list[Seen]
    output: str
    fetched: int = 0
    disk: tuple[int, int] = (0, 0)


@dataclass
class _Ended:
    status: int | None = None
    cpu: float = 0.0
    rss: int = 0
    fetched: int = 0
    at: float = 0.0  # time.monotonic()


def run(
    commands: Sequence[Words],
    log: Path,
    *,
    cards: Sequence[Card] = (),
    prefix: Sequence[str] = (),
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    after: float | None = None,
    then: Callable[[list[int]], None] | None = None,
    watched: Path | None = None,
) -> Run:
    """Run the commands at the same time, to their ends; what they print goes to the file ``log``.

    ``after`` so many seconds ``then`` is called with their process ids. An error inside, Ctrl-C too, ends
    them first.
    """
    begun = [card.counters() for card in cards]
    seen = [Seen() for _ in cards]
    disk, most, looked = allocated(watched), 0, 0.0
    busy, started = _busy(), time.monotonic()
    with log.open("wb") as said, _started(commands, said, prefix, folder, env) as children:
        ended = [_Ended() for _ in children]
        waiting = [
            threading.Thread(target=_wait, args=pair, daemon=True)
            for pair in zip(children, ended, strict=True)
        ]
        for thread in waiting:
            thread.start()
        while any(usage.status is None for usage in ended):
            time.sleep(_TICK)
            now = time.monotonic() - started
            _look(cards, begun, seen, now)
            if watched and now >= looked:
                most, looked = max(most, allocated(watched) - disk), now + _DISK_STEP
            if after is not None and then is not None and now >= after:
                after = None
                then([child.pid for child, use in zip(children, ended, strict=True) if use.status is None])
        seconds = max(usage.at for usage in ended) - started
    _look(cards, begun, seen, seconds, final=True)
    used, left = (_busy() - busy) / seconds, allocated(watched) - disk
    return Run(
        seconds,
        sum(usage.cpu for usage in ended),
        sum(usage.rss for usage in ended),
        used,
        [usage.status or 0 for usage in ended],
        seen,
        log.read_text("utf-8", "replace"),
        sum(usage.fetched for usage in ended),
        (max(most, left), left),
    )


def allocated(folder: Path | None) -> int:
    """Bytes of disk that the files below ``folder`` take."""
    total = 0
    for top, _, names in os.walk(folder or os.devnull):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(top, name)).st_blocks * 512  # noqa: PTH118 - quick
    return total


@contextlib.contextmanager
def _started(
    commands: Sequence[Words],
    said: BinaryIO,
    prefix: Sequence[str],
    folder: Path | None,
    env: Mapping[str, str] | None,
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    children: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            children.append(
                subprocess.Popen(
                    [*prefix, *map(str, command)],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=environment(env),
                    process_group=0,
                )
            )
        yield children
    except BaseException:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, ending)
            deadline = time.monotonic() + _PATIENCE
            while any(_lives(child.pid) for child in children) and time.monotonic() < deadline:
                time.sleep(0.05)
        raise


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _wait(child: "subprocess.Popen[bytes]", ended: _Ended) -> None:
    """Its usage holds that of every descendant it waited for (getrusage(2), RUSAGE_CHILDREN).

    Its peak of memory is at least that of this process, from which it was forked: that one must stay small.
    """
    _, status, usage = os.wait4(child.pid, 0)
    ended.at = time.monotonic()
    ended.cpu = usage.ru_utime + usage.ru_stime
    ended.rss = usage.ru_maxrss << 10
    ended.fetched = usage.ru_inblock * 512  # of all threads and descendants (task_io_get_inblock in Linux)
    child.returncode = os.waitstatus_to_exitcode(status)
    ended.status = child.returncode  # last: it tells that the others are there


def _look(
    cards: Sequence[Card],
    begun: Sequence[tuple[int, int]],
    seen: Sequence[Seen],
    now: float,
    final: bool = False,
) -> None:
    for card, (read, written), one in zip(cards, begun, seen, strict=True):
        if one.over_time and now - one.over_time[-1][0] < _STEP / 2 and not final:
            continue
        counted = card.counters()
        one.read, one.written = counted[0] - read, counted[1] - written
        one.over_time.append((now, one.read, one.written))


def _busy() -> float:
    """Core-seconds the machine was busy since it came up (proc(5), /proc/stat; iowait is not busy)."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, _ = map(int, words)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
