"""Waiting for threads without growing deaf to signals."""

from collections.abc import Collection
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future, wait
from typing import Any

_DEAF = 0.2  # seconds


def wait_for(futures: Collection["Future[Any]"], *, until_one_fails: bool = False) -> None:
    """Wait until all ``futures`` have ended, or until one has failed. What they raise is not raised here.

    Only the main thread acts upon a signal (Python's signal module), but the kernel may hand it to another
    one, as it does when the process was halted (Ctrl-Z) when it was sent; and that does not wake this one.
    """
    when = FIRST_EXCEPTION if until_one_fails else ALL_COMPLETED
    waiting = True
    while waiting:
        done, rest = wait(futures, timeout=_DEAF, return_when=when)
        waiting = bool(rest) and not (until_one_fails and any(future.exception() for future in done))
