"""When a card may have been put in or taken out: udev reports it where it runs, else it is polled.

Only this module and discovery.py use pyudev.
"""

import contextlib
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyudev

_UDEV = Path("/run/udev/control")  # systemd-udevd listens there; libudev looks for it too
_POLLED = 1.0  # seconds between two looks without udev
_REPORTED = 5.0  # seconds between two looks with udev: its events can be lost


@dataclass(frozen=True)
class MediaMonitor:
    """Waits for the next reason to look at the slots. ``waker`` is an eventfd(2), ``monitor`` is udev's."""

    waker: int
    monitor: "pyudev.Monitor | None"

    @property
    def by_udev(self) -> bool:
        """Whether udev reports. It makes the kernel look for new media too, else that takes opening them."""
        return self.monitor is not None

    def wake(self) -> None:
        """End the wait, or the next one. Safe from any thread."""
        os.eventfd_write(self.waker, 1)

    def wait(self, also: int | None = None, seconds: float | None = None) -> bool:
        """Wait until something may have changed, or the descriptor ``also`` is readable: then True.

        Waits no longer than ``seconds``.
        """
        handles = [self.waker]
        handles += [] if also is None else [also]
        handles += [] if self.monitor is None else [self.monitor.fileno()]
        every = _POLLED if self.monitor is None else _REPORTED
        ready, _, _ = select.select(handles, [], [], every if seconds is None else min(every, seconds))
        if self.waker in ready:
            os.eventfd_read(self.waker)
        if self.monitor is not None and self.monitor.fileno() in ready:
            # Errors too: too many events at once, and some are lost. The slots are looked at in any case.
            with contextlib.suppress(OSError):
                while self.monitor.poll(timeout=0) is not None:
                    pass
        return also in ready


@contextlib.contextmanager
def watching() -> Iterator[MediaMonitor]:
    """A monitor of all block devices."""
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
