"""The service: one process that owns the gateway. Commands send requests over a socket for root only.

A request is a JSON object on one line, and so is the answer. A client that requests "hold" stays connected:
the hold ends with the connection, also when the client is killed. While the gateway is closed, the process
sleeps until a request or a notification of the kernel arrives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import TextIO

from piimg_gateway import conf as settings
from piimg_gateway import netlink, words
from piimg_gateway.conf import Conf
from piimg_gateway.failure import Failure
from piimg_gateway.gate import Gate
from piimg_gateway.kept import RUN, Kept

SOCKET = RUN / "socket"
_TICK = 1.0  # seconds between checks while it is open, or has a problem
_PAUSE = 0.2  # seconds between checks during many changes: rules are often added in hundreds
_HOLDS = 32  # at a time per worker: each is a login, and this node has little memory
_REFUSED = "refused: the gateway's policy is off"


def now() -> float:
    """Seconds since boot: the clock may jump, the uptime cannot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def main() -> int:
    """Run the service until SIGTERM; its exit status. Raises Failure when another one runs, or it cannot."""
    os.umask(0o077)
    with contextlib.ExitStack() as stack:
        # the gateway must close also when /run cannot be written to
        with contextlib.suppress(OSError):
            RUN.mkdir(mode=0o700, exist_ok=True)
            _alone(stack.enter_context((RUN / "watch.pid").open("a")))
        Service(settings.read()).run()
    return 0


def _alone(lock: TextIO) -> None:
    """Lock the service. Raises Failure when another one runs."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure("another watcher runs already") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


class Needs:
    """The reasons to keep the gateway open: the holds, by their connections, and the switch with its end."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self.holders: dict[socket.socket, str] = {}
        self.until: float | None = None  # infinite: until it is switched off, or the next boot

    def switch(self, until: float | None) -> None:
        self.until = until
        self._kept.write("switch", "off" if until is None else str(until))

    def take_up(self, policy: str) -> None:
        """Continue with the switch of a killed service; at boot, with the state of the policy."""
        kept = self._kept.read("switch")
        if not kept:
            self.switch(math.inf if policy == "on" else None)
            return
        with contextlib.suppress(ValueError):  # "off" or invalid: closed
            self.until = float(kept)

    def left(self) -> int | None:
        """The remaining seconds of the switch, or None without an end."""
        return None if self.until is None or math.isinf(self.until) else max(0, int(self.until - now()))

    def any(self) -> bool:
        if self.until is not None and not self.until > now():
            self.switch(None)
        return self.until is not None or bool(self.holders)


class Service:
    """The service; ``run`` serves until it is stopped."""

    def __init__(self, conf: Conf) -> None:
        self._kept = Kept()
        self._gate = Gate(conf, self._kept)
        self._needs = Needs(self._kept)
        self._broken = ""  # the error in the current settings
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._looked = 0.0
        self._due: float | None = None  # when to check the changes

    def run(self) -> None:
        """Close the gateway in any case; then serve until SIGTERM. Raises Failure when it cannot serve."""
        changes = [netlink.rule_changes(), netlink.link_changes()]
        self._gate.settle(False)
        try:
            self._kept.prepare()
            listening = _listen()
        except OSError as error:
            raise Failure(f"{RUN}: {error.strerror}") from None
        self._needs.take_up(self._gate.conf.policy)
        self._watch(listening, lambda: self._accept(listening))
        woken = _woken_by_signals(self.stop)
        self._watch(woken, lambda: netlink.drain(woken))
        for sock in changes:
            self._watch(sock, lambda sock=sock: self._moved(sock))  # type: ignore[misc]
        self._settle()
        _notify("READY=1")
        while not self._stopping:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            if self._due is None and self._restless():
                self._due = self._looked + _TICK
            if self._due is not None and now() >= self._due:
                self._settle()
        self._end()

    def stop(self) -> None:
        """Make ``run`` return."""
        self._stopping = True

    def _end(self) -> None:
        self._end_holders()
        self._needs.switch(None)
        self._settle()
        self._kept.write("switch", "")
        with contextlib.suppress(OSError):
            SOCKET.unlink()

    # --- when to check --------------------------------------------------------------------------------------

    def _restless(self) -> bool:
        return self._gate.is_open or bool(self._gate.problem) or self._needs.any()

    def _patience(self) -> float | None:
        if self._due is None:
            return _TICK if self._restless() else None
        return max(0.0, self._due - now())

    def _moved(self, sock: socket.socket) -> None:
        if netlink.drain(sock):
            soon = max(now(), self._looked + _PAUSE)
            self._due = soon if self._due is None else min(soon, self._due)

    def _settle(self) -> None:
        policy = self._gate.conf.policy
        self._gate.settle(not self._broken and policy != "off" and self._needs.any())
        self._looked, self._due = now(), None

    # --- connections ----------------------------------------------------------------------------------------

    def _watch(self, sock: socket.socket, then: Callable[[], object]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, then)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock, _ = listening.accept()
            sock.settimeout(2)
            self._watch(sock, lambda: self._receive(sock))

    def _receive(self, sock: socket.socket) -> None:
        if sock.fileno() < 0:
            return  # closed by another request at the same moment
        try:
            data = sock.recv(4096)
        except OSError:
            data = b""
        if not data or sock in self._needs.holders:
            self._leave(sock)
            self._settle()
            return
        answer, stays = self._answered(sock, data)
        if not _send(sock, answer) or not stays:
            self._leave(sock)
            self._settle()

    def _leave(self, sock: socket.socket) -> None:
        self._needs.holders.pop(sock, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)
        sock.close()

    def _end_holders(self) -> None:
        for holder in list(self._needs.holders):
            _send(holder, {"closing": True})
            self._leave(holder)

    # --- requests -------------------------------------------------------------------------------------------

    def _answered(self, sock: socket.socket, data: bytes) -> tuple[dict[str, object], bool]:
        """The answer to a request, and whether the connection is a hold from now on."""
        self._reload()
        try:
            asked = json.loads(data)
            do, value = asked["do"], asked.get("value")
            if do == "hold":
                return self._hold(sock, str(value))
            if do == "on":
                self._refuse_when_off()
                self._needs.switch(math.inf if value is None else now() + float(value))
            elif do == "off":
                if value == "now":
                    self._end_holders()
                self._needs.switch(None)
            elif do != "status":
                raise ValueError(do)
            return self._status(do, value == "json"), False
        except Failure as failure:
            return {"exit": failure.status, "error": str(failure)}, False
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"exit": 2, "error": "that is no request"}, False

    def _reload(self) -> None:
        """Read the settings again for each command; wrong settings close the gateway."""
        try:
            found = settings.read()
        except Failure as failure:
            self._broken = str(failure)
            return
        self._broken = ""
        if found != self._gate.conf:
            self._gate.settle(False)  # with the interfaces it was opened with
            self._gate = Gate(found, self._kept)

    def _refuse_when_off(self) -> None:
        if self._broken or self._gate.conf.problem:
            raise Failure(f"refused: {self._broken or self._gate.conf.problem}")
        if self._gate.conf.policy == "off":
            raise Failure(_REFUSED)

    def _hold(self, sock: socket.socket, user: str) -> tuple[dict[str, object], bool]:
        self._refuse_when_off()
        if list(self._needs.holders.values()).count(user) >= _HOLDS:
            raise Failure(f"refused: {user} holds it {_HOLDS} times already")
        self._needs.holders[sock] = user
        self._settle()
        obstacle = words.obstacle(self._gate)
        if obstacle:
            raise Failure(f"no worker reaches the internet: {obstacle}")
        return {"open": True}, True

    def _status(self, do: str, as_json: bool) -> dict[str, object]:
        self._gate.try_again()
        self._settle()
        problems = (self._broken, self._gate.conf.problem, self._kept.problem)
        status = words.Status(
            self._gate,
            self._needs.until is not None,
            self._needs.left(),
            tuple(self._needs.holders.values()),
            words.try_services(self._gate.conf),
            tuple(problem for problem in problems if problem),
        )
        text = words.as_json(status) if as_json else words.say(status)
        failed = bool(self._gate.problem or self._broken) or (do == "on" and bool(words.obstacle(self._gate)))
        return {"exit": int(failed), "text": text}


def _send(sock: socket.socket, answer: dict[str, object]) -> bool:
    try:
        sock.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        return False
    return True


def _listen() -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        SOCKET.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(SOCKET))
    SOCKET.chmod(0o600)
    listening.listen(128)
    return listening


def _woken_by_signals(stop: Callable[[], None]) -> socket.socket:
    """A socket that becomes readable when SIGTERM or SIGINT has come, and ``stop`` was called."""
    reading, writing = socket.socketpair()
    for sock in (reading, writing):
        sock.setblocking(False)
    signal.set_wakeup_fd(writing.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    return reading


def _notify(state: str) -> None:
    """sd_notify(3): the service is ready only when it is closed, or open as its policy says."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + name[1:] if name.startswith("@") else name)
        sock.send(state.encode())
