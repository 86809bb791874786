"""What one template may use of the machine: memory and processor time, held by the kernel (setrlimit(2)).

For the process that renders and nothing else: the limits are those of all of it.
"""

import contextlib
import math
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

MEMORY = 256 << 20
"""Bytes that a template may use, beyond what the process had before the first one."""

SECONDS = 2
"""Seconds of processor time for a template."""


OUTPUT = 16 << 20
"""Characters of a template, and of what it gives."""

TOO_LONG = f"takes more than {SECONDS} seconds of processor time"
TOO_MUCH = f"needs more than {MEMORY >> 20} MiB of memory"
HINT = "docs/overlays.md says what a template may use"


class OutOfTime(BaseException):
    """A template used up its time. No Exception: Jinja2 tries parts of a template out, and catches those."""


def _mapped() -> int:
    """Bytes of address space in use (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class Bounds:
    """The bounds of this process; made before the first template."""

    def __init__(self) -> None:
        self._armed = False
        self._memory = _mapped() + MEMORY
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the secrets
        signal.signal(signal.SIGPROF, self._ring)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Bound what the block uses: MemoryError or OutOfTime.

        Python hears of a signal between two of its steps. A step that itself takes too long is ended by
        SIGXCPU, and the process with it.
        """
        self._armed = True
        _limit(resource.RLIMIT_AS, self._memory)
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + SECONDS) + 1)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            yield
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)  # an error must be put into words
            _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise OutOfTime


def _limit(what: int, amount: int) -> None:
    """Set the soft limit, which can be raised again, to ``amount`` or to the hard limit if that is lower."""
    hard = resource.getrlimit(what)[1]
    known = [one for one in (amount, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(what, (min(known, default=resource.RLIM_INFINITY), hard))
