"""When may a card have been put in or taken out? Told by udev where it runs, else looked for every second.

With find.py the only room that speaks to pyudev.
"""

import contextlib
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyudev

_UDEV = Path("/run/udev/control")  # systemd-udevd listens there; libudev looks for it too
_EVERY = 1.0  # seconds between two looks where nobody tells
_TOLD = 5.0  # seconds between two looks where udev tells: events can be lost


@dataclass(frozen=True)
class MediaMonitor:
    """Waits for the next reason to look at the slots. ``bell`` is an eventfd(2), ``monitor`` is udev's."""

    bell: int
    monitor: "pyudev.Monitor | None"

    @property
    def by_udev(self) -> bool:
        """Whether udev tells. It also makes the kernel look for new media, which else takes opening them."""
        return self.monitor is not None

    def ring(self) -> None:
        """End the wait, or the next one. Safe from any thread."""
        os.eventfd_write(self.bell, 1)

    def wait(self, also: int | None = None, seconds: float | None = None) -> bool:
        """Wait until something may have changed, or there is something to read from the descriptor ``also``.

        Gives whether there is. Waits no longer than ``seconds``.
        """
        handles = [self.bell]
        handles += [] if also is None else [also]
        handles += [] if self.monitor is None else [self.monitor.fileno()]
        every = _EVERY if self.monitor is None else _TOLD
        ready, _, _ = select.select(handles, [], [], every if seconds is None else min(every, seconds))
        if self.bell in ready:
            os.eventfd_read(self.bell)
        if self.monitor is not None and self.monitor.fileno() in ready:
            # Errors too: too much was told at once, and some of it is lost. There is a look in any case.
            with contextlib.suppress(OSError):
                while self.monitor.poll(timeout=0) is not None:
                    pass
        return also in ready


@contextlib.contextmanager
def watching() -> Iterator[MediaMonitor]:
    """A watch over all block devices."""
    bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        yield MediaMonitor(bell, _monitor())
    finally:
        os.close(bell)


def _monitor() -> "pyudev.Monitor | None":
    if not _UDEV.exists():
        return None
    monitor = pyudev.Monitor.from_netlink(pyudev.Context())
    monitor.filter_by("block")
    monitor.start()
    return monitor
