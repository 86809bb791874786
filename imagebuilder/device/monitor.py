"""Wait until a card may have been inserted or removed: by udev events, or by polling without udev.

Only this module and discovery.py use pyudev.
"""

import contextlib
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyudev

_UDEV = Path("/run/udev/control")  # the socket of systemd-udevd; libudev checks for it too
_POLLED = 1.0  # seconds between two checks without udev
_REPORTED = 5.0  # seconds between two checks with udev: its events can be lost


@dataclass(frozen=True)
class MediaMonitor:
    """Waits until the slots should be checked. ``waker`` is an eventfd(2), ``monitor`` the udev monitor."""

    waker: int
    monitor: "pyudev.Monitor | None"

    @property
    def by_udev(self) -> bool:
        """Whether udev reports changes. It also makes the kernel detect media; else open the devices."""
        return self.monitor is not None

    def wake(self) -> None:
        """End the present or the next wait. Safe from any thread."""
        os.eventfd_write(self.waker, 1)

    def wait(self, also: int | None = None, seconds: float | None = None) -> bool:
        """Wait until something may have changed; True when the descriptor ``also`` is readable.

        Waits at most ``seconds``.
        """
        handles = [self.waker]
        handles += [] if also is None else [also]
        handles += [] if self.monitor is None else [self.monitor.fileno()]
        every = _POLLED if self.monitor is None else _REPORTED
        ready, _, _ = select.select(handles, [], [], every if seconds is None else min(every, seconds))
        if self.waker in ready:
            os.eventfd_read(self.waker)
        if self.monitor is not None and self.monitor.fileno() in ready:
            # An error, such as lost events after too many at once, does no harm: all slots are checked.
            with contextlib.suppress(OSError):
                while self.monitor.poll(timeout=0) is not None:
                    pass
        return also in ready


@contextlib.contextmanager
def watching() -> Iterator[MediaMonitor]:
    """Provide a monitor of all block devices."""
    waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        yield MediaMonitor(waker, _monitor())
    finally:
        os.close(waker)


def _monitor() -> "pyudev.Monitor | None":
    if not _UDEV.exists():
        return None
    monitor = pyudev.Monitor.from_netlink(pyudev.Context())
    monitor.filter_by("block")
    monitor.start()
    return monitor
