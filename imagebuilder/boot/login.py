"""Logging in to a booted node with the user's key; only the host key made for the node is accepted."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagebuilder.errors import NodeError
from imagebuilder.system import process
from imagebuilder.system.process import ToolError

LOST = 255
"""The exit status of a failed ssh; any other status is the command's."""
_LIMITED = """\
control=$1; shift
timeout --kill-after=5 "$@"
status=$?
case $status in 124 | 137 | 255) ssh -F none -o "$control" -O exit node >/dev/null 2>&1 ;; esac
exit "$status"
"""
# The output of a command that does not end is closed only with the shared connection: 124 and 137 are
# timeout(1)'s. After a failure of ssh the connection may be dead, so the next command makes a new one.
_SHARED = ("ControlMaster=auto", "ControlPersist=yes")
_STEP = 1.0  # seconds between two tries
_GREETING = 10.0  # seconds until sshd sends its identification
_TRY = 120  # seconds that a login may take on a busy host


class HostKeyError(NodeError):
    """The node has another host key than the one made for it."""


@dataclass(frozen=True)
class Login:
    """How to log in to a node: a port on 127.0.0.1; ``identities`` are private key files (none: an agent).

    If there are several ``ports``, the node is behind one of them: the one whose sshd has its host key.
    ``known_hosts`` is a file with the node's expected host key under its name; no other key is accepted.
    ``control`` is the path of the socket for a shared connection, in a private folder with a short path
    (ssh_config(5), ControlPath); without it each command makes a login.
    """

    node: str
    user: str
    ports: tuple[int, ...]
    known_hosts: Path
    identities: tuple[Path, ...]
    control: Path | None = None
    _found: list[int] = field(default_factory=list, compare=False, repr=False)

    @property
    def port(self) -> int:
        """The port of the node; until a login succeeded, the first one."""
        return self._found[0] if self._found else self.ports[0]

    def command(self, *words: str) -> list[str]:
        """The ssh command line that runs ``words`` on the node, or a login shell, over its own connection."""
        return self._command(words)

    def _command(self, words: Sequence[str], more: Sequence[str] = ()) -> list[str]:
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
            "UserKnownHostsFile": _literally(self.known_hosts),
        }
        argv = ["ssh", "-F", "none", "-p", str(self.port)]
        settings = [*(f"{name}={value}" for name, value in options.items()), *more]
        argv += [word for setting in settings for word in ("-o", setting)]
        argv += [word for file in self.identities for word in ("-i", str(file))]
        return [*argv, f"{self.user}@127.0.0.1", *words]

    def run(
        self, command: str, data: bytes = b"", patience: float = 300.0
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a shell command on the node; ``data`` is its standard input. Its exit status is not checked.

        Raises HostKeyError, or ToolError when ssh itself fails. After ``patience`` seconds the command is
        killed, and the status is 124 or 137, as of timeout(1).
        """
        argv = ["timeout", "--kill-after=5", str(patience), *self.command(command)]
        if self.control is not None:
            control = f"ControlPath={_literally(self.control)}"
            shared = self._command([command], [*_SHARED, control])
            argv = ["sh", "-c", _LIMITED, "sh", control, str(patience), *shared]
        done = process.run(argv, data=data, env=agent(), ok=range(256))
        if done.returncode == LOST:
            errors = done.stderr.decode("utf-8", "replace")
            if "Host key verification failed" in errors or "no matching host key" in errors:
                raise HostKeyError(
                    f"{self.node} has another host key than the one made for it",
                    "a program on the node made a new key: see its console",
                )
            raise process.failure("ssh", done.returncode, done.stdout, done.stderr)
        return done

    def hang_up(self) -> None:
        """End the shared connection, if there is one."""
        if self.control is not None and self.control.exists():
            control = f"ControlPath={_literally(self.control)}"
            process.run(["ssh", "-F", "none", "-o", control, "-O", "exit", "node"], ok=range(256))

    def wait(self, patience: float, check: Callable[[], None]) -> None:
        """Wait until a new login succeeds. ``check`` is called before each try, and may raise.

        Raises HostKeyError, or PiimgError after ``patience`` seconds.
        """
        deadline = time.monotonic() + patience
        reason = "no answer"
        self.hang_up()
        while True:
            check()
            try:
                if self.answers():
                    return
            except ToolError as error:
                reason = error.message
            if time.monotonic() > deadline:
                raise NodeError(
                    f"{self.node}: no login within {patience:.0f} seconds: {reason}",
                    f"watch it start: piimg boot --node {self.node} --console",
                )
            time.sleep(_STEP)

    def answers(self, patience: float = _GREETING) -> bool:
        """Whether a login succeeds; sshd has ``patience`` seconds to answer. Raises what ``run`` raises."""
        if len(self.ports) == 1 or self._found:
            return self._greets(patience) and self.run("true", patience=_TRY).returncode == 0
        for port in self.ports:
            one = replace(self, ports=(port,), _found=[])
            with contextlib.suppress(HostKeyError):  # another node answers there
                if one.answers(patience):
                    self._found.append(port)
                    return True
        return False

    def _greets(self, patience: float) -> bool:
        """Whether an sshd answers: while a node is not up, its port accepts connections but sends nothing."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), patience) as door,
        ):
            return door.recv(4) == b"SSH-"
        return False

    def shell(self, words: Sequence[str] = ()) -> int:
        """Connect the terminal to a login shell on the node; its exit status, or LOST when ssh fails.

        It uses the shared connection, if there is one.
        """
        more = [] if self.control is None else [f"ControlPath={_literally(self.control)}"]
        argv = self._command(words, more)
        return process.interactive([argv[0], "-t", *argv[1:]], env=agent())


def _literally(path: Path) -> str:
    """A path quoted as the value of an ssh option, where blanks separate words and % begins a token."""
    escaped = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def known_hosts(file: Path, keys: dict[str, str]) -> None:
    """Write the public host keys, by node, in the form of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
    file.write_text("".join(f"{node} {' '.join(key.split()[:2])}\n" for node, key in keys.items()))


def agent() -> dict[str, str]:
    """The environment variables by which ssh finds the user's agent."""
    return {name: os.environ[name] for name in ("SSH_AUTH_SOCK", "TERM") if name in os.environ}
