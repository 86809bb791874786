"""The command line: parse the arguments, send a request to the service, print the answer.

Workers wait for the commands: modules that are slow to import are imported where they are needed.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import time

from piimg_gateway.failure import Failure

USAGE = """\
piimg-gateway on            let the workers out, until "off" or the next boot
piimg-gateway on --for 30m  the same for a time (s, m, h or d), then close by itself
piimg-gateway off           end "on"; stays open while workers still use it
piimg-gateway off --now     close at once, even while workers use it
piimg-gateway status        print the state; with --json for programs
piimg-gateway hold          keep it open until standard input ends (used by with-internet)
piimg-gateway watch         the service: apply the policy, close when no worker needs it"""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_STARTING = 10.0  # seconds until the service must answer
_ANSWER = 30.0  # seconds for an answer
_CONF = "/etc/piimg/gateway.conf"
_RUN = "/run/piimg-gateway"


def main(words: list[str]) -> int:
    """Run a command; its exit status. Raises Failure."""
    command, *rest = words or [""]
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if command not in ("on", "off", "status", "hold", "watch"):
        print(USAGE, file=sys.stderr)
        return 2
    if not os.access(_CONF, os.R_OK):
        raise Failure(f"cannot read {_CONF}: this node is not the cluster's gateway")
    if os.geteuid() != 0:
        raise Failure("must be root: use sudo piimg-gateway")
    if command == "watch":
        return _watch()
    if command == "hold":
        return _hold()
    return _ask(command, _value(command, rest))


def _value(command: str, rest: list[str]) -> object:
    if command == "on" and len(rest) == 2 and rest[0] == "--for":
        return _seconds(rest[1])
    if command == "off" and rest == ["--now"]:
        return "now"
    if command == "status" and rest == ["--json"]:
        return "json"
    if rest:
        takes = {"on": "nothing or --for TIME", "off": "nothing or --now", "status": "nothing or --json"}
        raise Failure(f"{command} takes {takes[command]}", 2)
    return None


def _seconds(text: str) -> int:
    """90s, 30m, 2h, 1d in seconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})([smhd])", text)
    if not found:
        raise Failure(f"not a time: {text!r} (write 90s, 30m, 2h or 1d)", 2)
    return int(found[1]) * _SECONDS[found[2]]


def _ask(command: str, value: object) -> int:
    with _connected() as sock:
        answer = _answer(sock, {"do": command, "value": value})
    if "error" in answer:
        raise Failure(str(answer["error"]), int(str(answer["exit"])))
    print(answer["text"])
    return int(str(answer["exit"]))


def _answer(sock: socket.socket, request: dict[str, object]) -> dict[str, object]:
    try:
        sock.sendall(json.dumps(request).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            part = sock.recv(1 << 16)
            if not part:
                raise Failure("the service ended before it answered: journalctl -u piimg-gateway")
            data += part
    except OSError as error:
        raise Failure(f"the service does not answer ({error}): journalctl -u piimg-gateway") from None
    found: dict[str, object] = json.loads(data)
    return found


def _hold() -> int:
    """Keep the gateway open until standard input ends, or the service reports that it closes."""
    said = False
    while True:
        with _connected() as sock:
            answer = _answer(sock, {"do": "hold", "value": _asked_from()})
            if "error" in answer:
                # to standard output, like "open", because the worker waits for an answer there
                print(answer["error"], flush=True)
                return int(str(answer["exit"]))
            try:
                if not said:
                    print("open", flush=True)
                said = True
            except BrokenPipeError:
                return 0  # the worker has gone
            ended = _held(sock)
        if ended:
            return 0
        # the service was killed, and will be restarted


def _held(sock: socket.socket) -> bool:
    """Wait until the hold ends; whether it is over for good, and not only interrupted."""
    while True:
        ready, _, _ = select.select([0, sock.fileno()], [], [])
        if sock.fileno() in ready:
            try:
                return bool(sock.recv(4096))  # "closing"
            except OSError:
                return False
        if not os.read(0, 1 << 16):
            return True


def _asked_from() -> str:
    """The address of the ssh client, or "local"."""
    address = os.environ.get("SSH_CONNECTION", "local").split(" ")[0]
    return address if re.fullmatch(r"[0-9a-fA-F.:]+", address) else "local"


def _connected() -> socket.socket:
    """A connection to the service, which is started if it does not run."""
    end = time.monotonic() + _STARTING
    started = False
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(f"{_RUN}/socket")
            sock.settimeout(_ANSWER)
            return sock
        except OSError:
            sock.close()
        if time.monotonic() > end:
            raise Failure("the service does not run: systemctl status piimg-gateway")
        if not started:
            _start()
            started = True
        time.sleep(0.05)


def _start() -> None:
    """Start the service: as a unit of systemd, or directly without systemd (a container, a test)."""
    import subprocess

    if os.path.isdir("/run/systemd/system"):  # noqa: PTH112
        subprocess.run(["systemctl", "start", "piimg-gateway.service"], check=False, stdin=subprocess.DEVNULL)
    else:
        subprocess.Popen(
            [sys.argv[0], "watch"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _watch() -> int:
    from piimg_gateway import service

    return service.main()
