"""Run the program that changes an image in namespaces of its own, which end with it.

Its mounts are in its own mount namespace and its programs in its own process namespace: when it is killed,
or piimg is, the kernel ends all of them, and nothing stays (pid_namespaces(7), mount_namespaces(7)). As an
ordinary user it also has a user namespace with the numbers of /etc/subuid, as one number is not enough for
the accounts of an image (newuidmap(1)).
"""

import json
import os
import select
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.system.process import ToolError, failure, interpreter

_POLL = 0.2  # seconds between two looks at the request to stop
_CODE = "import imagebuilder.dressing.inside as inside; inside.main()"
_ISOLATED = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
_MAPPED = ("--user", "--map-root-user", "--map-auto")

Event = Mapping[str, Any]


def run_inside(work: Mapping[str, object], on_event: Callable[[Event], None], stop: threading.Event) -> Event:
    """Run ``inside.main`` with ``work`` as its order, call ``on_event`` for each event, return the last one.

    Raises Interrupted when ``stop`` is set, and the PiimgError of the program.
    """
    mapped = () if os.geteuid() == 0 else _MAPPED
    wrapper = ["unshare", *mapped, *_ISOLATED, "--propagation", "slave", "--"]
    with tempfile.TemporaryFile() as said, interpreter(_CODE, within=wrapper, said=said) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(work).encode() + b"\n")
        child.stdin.flush()
        last: Event = {}
        pending = b""
        while True:
            if stop.is_set():
                raise Interrupted("dressing the base image was stopped", "no partial result was left")
            if not select.select([child.stdout], [], [], _POLL)[0]:
                continue
            data = os.read(child.stdout.fileno(), 1 << 16)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                last = json.loads(line)
                on_event(last)
        status = child.wait()
        if "error" in last:
            raise PiimgError(str(last["error"]), str(last.get("hint", "")))
        if "result" not in last:
            said.seek(0)
            raise _ended(failure("unshare", status, b"", said.read()))
        result: Event = last["result"]
        return result


def _ended(error: ToolError) -> PiimgError:
    """The error for a program that ended without a result."""
    if b"newuidmap" in error.stderr or b"subuid" in error.stderr or b"uid_map" in error.stderr:
        return PiimgError(
            "packages cannot be installed without root: this user has no range of numbers",
            "sudo apt-get install uidmap, and a line in /etc/subuid and /etc/subgid; or run piimg with sudo",
        )
    if b"Operation not permitted" in error.stderr:
        return PiimgError(
            f"packages cannot be installed here: {error.message}",
            "run piimg with sudo; start a container with --privileged",
        )
    return PiimgError(
        f"the program that changes the image ended: {error.message}", "see: piimg doctor packages"
    )
