"""Logging in to a booted node: the user's key, and strictly the host key that was made for the node."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system import process
from imagebuilder.system.process import ToolError

_FAILED = 255  # ssh's own exit status; any other is the command's
_STEP = 1.0  # seconds between two tries
_GREETING = 10.0  # seconds until sshd says what it is
_TRY = 120  # seconds a login may take, on a host that is busy with other things


class HostKeyError(PiimgError):
    """The node has another host key than the one made for it."""


@dataclass(frozen=True)
class Login:
    """The way to a node: ``port`` on 127.0.0.1; ``identities`` are private key files, or none (an agent's).

    ``known_hosts`` is a file that holds the node's expected host key under its name, and nothing else counts.
    """

    node: str
    user: str
    port: int
    known_hosts: Path
    identities: tuple[Path, ...]

    def command(self, *words: str) -> list[str]:
        """The ssh command line that runs ``words`` on the node, or a login shell."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(_TRY),
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": self.node,
            "IdentitiesOnly": "yes" if self.identities else "no",
            "LogLevel": "ERROR",
            "PasswordAuthentication": "no",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
        }
        argv = ["ssh", "-F", "none", "-p", str(self.port)]
        argv += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        argv += [word for file in self.identities for word in ("-i", str(file))]
        return [*argv, f"{self.user}@127.0.0.1", *words]

    def run(
        self, command: str, data: bytes = b"", patience: float = 300.0
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a shell command on the node; ``data`` is its standard input. Its exit status is not judged.

        Raises HostKeyError, or ToolError when ssh itself fails or ``patience``, in seconds, is over.
        """
        argv = ["timeout", "--kill-after=5", str(patience), *self.command(command)]
        done = process.run(argv, data=data, env=agent(), ok=range(256))
        if done.returncode == _FAILED:
            said = done.stderr.decode("utf-8", "replace")
            if "Host key verification failed" in said or "no matching host key" in said:
                raise HostKeyError(
                    f"{self.node} has another host key than the one made for it",
                    "something on the node made a new one: see its console",
                )
            raise process.failure("ssh", done.returncode, done.stdout, done.stderr)
        return done

    def wait(self, patience: float, check: Callable[[], None]) -> None:
        """Wait until a login succeeds; ``check`` is called meanwhile, and raises when there is no hope.

        Raises HostKeyError, or PiimgError when ``patience``, in seconds, is over.
        """
        deadline = time.monotonic() + patience
        said = "no answer"
        while True:
            check()
            try:
                if self.answers():
                    return
            except ToolError as error:
                said = error.message
            if time.monotonic() > deadline:
                raise PiimgError(f"{self.node}: no login within {patience:.0f} seconds: {said}")
            time.sleep(_STEP)

    def answers(self, patience: float = _GREETING) -> bool:
        """Whether a login succeeds; sshd gets ``patience`` seconds to greet. Raises what ``run`` raises."""
        return self._greets(patience) and self.run("true", patience=_TRY).returncode == 0

    def _greets(self, patience: float) -> bool:
        """Whether an sshd answers: the door to a node that is not up accepts everybody, and says nothing."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), patience) as door,
        ):
            return door.recv(4) == b"SSH-"
        return False

    def shell(self, words: Sequence[str] = ()) -> int:
        """Give the terminal to a login shell on the node; its exit status."""
        argv = self.command(*words)
        return process.interactive([argv[0], "-t", *argv[1:]], env=agent())


def known_hosts(file: Path, keys: dict[str, str]) -> None:
    """Write the public host keys, by node, in the form of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
    file.write_text("".join(f"{node} {' '.join(key.split()[:2])}\n" for node, key in keys.items()))


def agent() -> dict[str, str]:
    """What ssh must know of the user's environment to find their agent."""
    return {name: os.environ[name] for name in ("SSH_AUTH_SOCK", "TERM") if name in os.environ}
