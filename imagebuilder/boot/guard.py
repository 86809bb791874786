"""What stands between the switch and the door: it keeps from the door what the nodes say to one another.

QEMU's user-mode network takes every frame it sees for its own, whatever MAC address it is sent to. On the
switch itself it would answer each connection between two nodes with a reset, in the other node's name.
"""

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

_LARGEST = 1 << 16  # bytes of a frame
_PATIENCE = 0.05  # seconds for a full socket; then the frame is lost, as frames may be
_OURS = b"\x52\x55"  # how the MAC addresses of QEMU's user-mode network begin


def is_for_the_door(frame: bytes) -> bool:
    """Whether a frame goes to all, or to an address of QEMU's user-mode network."""
    return frame[:2] == _OURS or bool(frame[:1] and frame[0] & 1)


@contextlib.contextmanager
def guarded(folder: Path, outside: tuple[str, str], inside: tuple[str, str]) -> Iterator[None]:
    """Carry frames between two pairs of datagram sockets in ``folder`` while the block lasts.

    Each pair is the name of our socket and of QEMU's: ``outside`` on the switch, ``inside`` at the door.
    """
    with contextlib.ExitStack() as stack:
        directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)  # a path for a socket may not be long
        stack.callback(os.close, directory)
        ends = []
        for ours, theirs in (outside, inside):
            end = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            end.bind(f"/proc/self/fd/{directory}/{ours}")
            stack.callback((folder / ours).unlink, missing_ok=True)
            end.settimeout(_PATIENCE)
            ends.append((end, f"/proc/self/fd/{directory}/{theirs}"))
        stopped, stop = socket.socketpair()
        stack.enter_context(stopped)
        thread = threading.Thread(target=_carry, args=(ends, stopped), name="guard")
        thread.start()
        stack.callback(thread.join)
        stack.enter_context(stop)  # closed first, which ends the thread
        yield


def _carry(ends: list[tuple[socket.socket, str]], stopped: socket.socket) -> None:
    (switch, to_switch), (door, to_door) = ends
    with selectors.DefaultSelector() as ready:
        for one in (switch, door, stopped):
            ready.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is stopped:
                    return
                with contextlib.suppress(OSError):  # nobody there yet, or no room: the frame is lost
                    if key.fileobj is door:
                        switch.sendto(door.recv(_LARGEST), to_switch)
                    elif is_for_the_door(frame := switch.recv(_LARGEST)):
                        door.sendto(frame, to_door)
