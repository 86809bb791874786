"""What a process holds: its threads, descriptors and memory, as the kernel tells and as it stands in them."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LAUNCH = (
    "import faulthandler, signal, sys; "
    "faulthandler.register(signal.SIGUSR1, open(sys.argv.pop(1), 'ab', 0), all_threads=True); "
    "from imagebuilder.cli.main import main; main()"
)
"""piimg; upon SIGUSR1 it writes where each of its threads stands to a file, its first argument."""

_IDLE = re.compile(r'concurrent/futures/thread\.py", line \d+ in _worker$')


@dataclass(frozen=True)
class Rest:
    """What a process holds at one moment.

    ``pool`` are idle threads of its pools, which stay for the next work; ``threads`` is where each of the
    others stands; ``memory`` is its own resident memory in bytes (RssAnon of proc(5)), ``resident`` all that
    is resident.
    """

    threads: tuple[str, ...]
    pool: int
    descriptors: tuple[str, ...]
    memory: int
    resident: int

    @property
    def held(self) -> tuple[object, ...]:
        """What must be the same whenever there is nothing to do."""
        return self.threads, self.descriptors


@dataclass(frozen=True)
class Watched:
    """A process that was started with ``LAUNCH``; ``stacks`` is its file."""

    process: int
    stacks: Path

    def descriptors(self) -> tuple[str, ...]:
        """What its descriptors lead to."""
        return tuple(sorted(self._links()))

    def _links(self) -> Iterator[str]:
        for link in Path(f"/proc/{self.process}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                yield str(link.readlink())

    def rest(self) -> Rest:
        """All that it holds now."""
        stacks = self._stacks()
        working = [stack for stack in stacks if not _IDLE.search(stack.splitlines()[0])]
        tops = tuple(sorted(re.sub(r", line \d+", "", stack.splitlines()[0].strip()) for stack in working))
        status = Path(f"/proc/{self.process}/status").read_text()
        memory, resident = (
            int(found[1]) << 10
            for name in ("RssAnon", "VmRSS")
            if (found := re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE))
        )
        return Rest(tops, len(stacks) - len(working), self.descriptors(), memory, resident)

    def _stacks(self) -> list[str]:
        """Where each thread stands, the innermost call first."""
        before = self.stacks.stat().st_size
        count = len(list(Path(f"/proc/{self.process}/task").iterdir()))
        os.kill(self.process, signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.1)
            text = self.stacks.read_bytes()[before:].decode()
            if text.endswith("\n"):
                parts = re.split(r"^(?:Thread|Current thread) 0x\w+ .*\n", text, flags=re.MULTILINE)[1:]
                if len(parts) >= count:
                    return parts
        raise AssertionError(f"process {self.process} does not say where its {count} threads stand: {text}")
