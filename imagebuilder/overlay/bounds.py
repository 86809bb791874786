"""Limits of memory and processor time for a template, enforced by the kernel (setrlimit(2)).

Only for the process that renders templates: the limits apply to the whole process.
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
"""Bytes that a template may use in addition to the memory of the process before the first template."""

SECONDS = 2
"""Seconds of processor time for a template."""


OUTPUT = 16 << 20
"""Characters of a template, and of its output."""

TOO_LONG = f"takes more than {SECONDS} seconds of processor time"
TOO_MUCH = f"needs more than {MEMORY >> 20} MiB of memory"
HINT = "docs/overlays.md says what a template may use"


class OutOfTime(BaseException):
    """A template exceeded its time. Not an Exception, because Jinja2 catches those in constants."""


def _mapped() -> int:
    """Bytes of address space in use (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class Bounds:
    """The limits of this process; created before the first template."""

    def __init__(self) -> None:
        self._armed = False
        self._memory = _mapped() + MEMORY
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would contain the secrets
        signal.signal(signal.SIGPROF, self._ring)

    @contextlib.contextmanager
    def enforced(self) -> Iterator[None]:
        """Limit the block: it raises MemoryError or OutOfTime.

        Python handles signals only between two bytecode instructions. SIGXCPU ends the process if a single
        instruction takes too long.
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
            _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)  # formatting an error needs memory
            _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise OutOfTime


def _limit(kind: int, amount: int) -> None:
    """Set the soft limit, which can be raised later, to ``amount`` or to the hard limit if that is lower."""
    hard = resource.getrlimit(kind)[1]
    finite = [limit for limit in (amount, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(finite, default=resource.RLIM_INFINITY), hard))
