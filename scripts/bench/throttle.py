"""Throttle loop devices to the speed of a card, with the block I/O controller of the kernel's cgroups.

Version 1 throttles in its root group, which applies to every process. Version 2 has no limits in its root
group, so a group is created for the benchmark, and the measured programs run in it.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError

MIB = 1 << 20  # bytes
_GROUP = "piimg-bench"


@dataclass(frozen=True)
class Speed:
    """The speed of a card, in MiB per second; 0 is no limit."""

    write: int
    read: int

    def seconds(self, written: int, read: int) -> float:
        """The minimum time of a card for these numbers of bytes, in seconds."""
        parts = ((written, self.write), (read, self.read))
        return sum(count / (rate * MIB) for count, rate in parts if rate)

    def __str__(self) -> str:
        return f"{self.write}/{self.read}"


@contextlib.contextmanager
def throttled(speeds: dict[Path, Speed], memory: int = 0) -> Iterator[Sequence[str]]:
    """Limit each device to its speed; yield the prefix for commands that the limits must apply to.

    With ``memory`` these commands have so many bytes of it, the page cache included. The earlier limits are
    restored at the end of the block. Raises PiimgError when this kernel has no such controller.
    """
    limits = {device: speed for device, speed in speeds.items() if speed.write or speed.read}
    first = _root_of("cgroup", "blkio")
    second = _root_of("cgroup2", None)
    if not limits:
        yield ()
    elif first:
        with _version_1(first, limits), _memory_version_1(memory) as prefix:
            yield prefix
    elif second and "io" in (second / "cgroup.controllers").read_text().split():
        with _version_2(second, limits) as group:
            if memory:
                (group / "memory.max").write_text(str(memory))
            yield _inside(group)
    else:
        raise PiimgError(
            "this kernel cannot slow a device down", "neither cgroup v1 blkio nor cgroup v2 io is there"
        )


def _inside(group: Path) -> Sequence[str]:
    return ("sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh")


@contextlib.contextmanager
def _memory_version_1(memory: int) -> Iterator[Sequence[str]]:
    if not memory:
        yield ()
        return
    root = _root_of("cgroup", "memory")
    if root is None:
        raise PiimgError("this kernel cannot limit memory", "cgroup v1 memory is not there")
    group = root / _GROUP
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(memory))
        yield _inside(group)
    finally:
        group.rmdir()


def _root_of(kind: str, option: str | None) -> Path | None:
    """Where the hierarchy is mounted (proc(5), /proc/mounts)."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, system, options, *_ = line.split()
        if system == kind and (option is None or option in options.split(",")):
            return Path(point)
    return None


def _number(device: Path) -> str:
    rdev = device.stat().st_rdev
    return f"{os.major(rdev)}:{os.minor(rdev)}"


@contextlib.contextmanager
def _version_1(root: Path, limits: dict[Path, Speed]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device, speed in limits.items():
            for name, rate in (("write", speed.write), ("read", speed.read)):
                file = root / f"blkio.throttle.{name}_bps_device"
                lines = (line.split() for line in file.read_text().splitlines())
                before = dict(line for line in lines if len(line) == 2).get(_number(device), "0")
                stack.callback(file.write_text, f"{_number(device)} {before}")
                file.write_text(f"{_number(device)} {rate * MIB}")
        yield


@contextlib.contextmanager
def _version_2(root: Path, limits: dict[Path, Speed]) -> Iterator[Path]:
    group = root / _GROUP
    control = root / "cgroup.subtree_control"
    # memory too: without it what is written through the page cache counts for the root group
    added = [one for one in ("io", "memory") if one not in control.read_text().split()]
    with contextlib.ExitStack() as stack:
        for one in added:
            control.write_text(f"+{one}")
            stack.callback(control.write_text, f"-{one}")
        group.mkdir()
        stack.callback(group.rmdir)
        for device, speed in limits.items():
            said = {"wbps": speed.write, "rbps": speed.read}
            words = " ".join(f"{name}={rate * MIB if rate else 'max'}" for name, rate in said.items())
            (group / "io.max").write_text(f"{_number(device)} {words}")
        yield group
