"""A client of QEMU's machine protocol: JSON lines over a socket.

After a greeting and ``qmp_capabilities`` each command is answered in order by ``return`` or ``error``, and
events come in between: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

import contextlib
import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from imagebuilder.errors import PiimgError

_STEP = 0.05  # seconds between two tries


class Control:
    """A connection to one QEMU. Not thread-safe."""

    def __init__(self, stream: io.BufferedRWPair) -> None:
        self._stream = stream
        self.events: list[dict[str, Any]] = []
        self._next()  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:
        """QEMU's answer to ``command``. Raises PiimgError when it refuses, EOFError when it has ended."""
        line = json.dumps({"execute": command, "arguments": arguments}) + "\n"
        try:
            self._stream.write(line.encode())
            self._stream.flush()
        except OSError as error:
            raise EOFError from error
        while True:
            answer = self._next()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise PiimgError(f"QEMU: {answer['error'].get('desc', command)}", "see piimg doctor boot")
            self.events.append(answer)

    def wait(self) -> None:
        """Collect events until QEMU ends."""
        with contextlib.suppress(EOFError):
            while True:
                self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        try:
            line = self._stream.readline()
        except OSError as error:
            raise EOFError from error
        if not line.endswith(b"\n"):
            raise EOFError
        document: dict[str, Any] = json.loads(line)
        return document


@contextlib.contextmanager
def control(path: Path, alive: Callable[[], bool], patience: float) -> Iterator[Control]:
    """Connect to the QEMU that listens at ``path``; wait for it at most ``patience`` seconds.

    Raises EOFError when it is no longer ``alive``, PiimgError when it does not listen.
    """
    deadline = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while (connection := connect(path)) is None:
            if not alive():
                raise EOFError
            if time.monotonic() > deadline:
                raise PiimgError(
                    f"QEMU does not answer at {path.name}", "try again when this machine is less busy"
                )
            time.sleep(_STEP)
        stack.enter_context(connection)
        yield Control(stack.enter_context(connection.makefile("rwb")))


def connect(path: Path) -> socket.socket | None:
    """A connection to the socket ``path``, of any length; None when no process listens."""
    connection = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")  # sun_path has 108 bytes only
        return connection
    except OSError:
        connection.close()
        return None
    finally:
        os.close(folder)
