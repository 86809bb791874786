"""Wait for a condition, with a time limit: what tests use in place of a fixed sleep."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    seconds: float = 10.0,
    otherwise: Callable[[], object] = lambda: "it did not become true in time",
    pause: float = 0.05,
) -> None:
    """Return as soon as ``condition`` is true; it is asked every ``pause`` seconds.

    Raises AssertionError with what ``otherwise`` returns when it is not true within ``seconds``.
    """
    assert happens(condition, seconds, pause), otherwise()


def happens(condition: Callable[[], object], seconds: float = 10.0, pause: float = 0.05) -> bool:
    """Whether ``condition`` becomes true within ``seconds``; it is asked at least once."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
    return True
