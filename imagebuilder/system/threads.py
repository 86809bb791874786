"""Wait for threads and still handle signals."""

from collections.abc import Collection
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future, wait
from typing import Any

_SIGNAL_DELAY = 0.2  # seconds until a signal is handled


def wait_for(futures: Collection["Future[Any]"], *, until_one_fails: bool = False) -> None:
    """Wait until all ``futures`` have ended, or until one has failed. Their exceptions are not raised.

    Only the main thread handles signals (Python's signal module), but the kernel may deliver one to another
    thread, such as when the process was stopped (Ctrl-Z), and that does not wake the main thread.
    """
    when = FIRST_EXCEPTION if until_one_fails else ALL_COMPLETED
    waiting = True
    while waiting:
        done, rest = wait(futures, timeout=_SIGNAL_DELAY, return_when=when)
        waiting = bool(rest) and not (until_one_fails and any(future.exception() for future in done))
