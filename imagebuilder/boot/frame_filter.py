"""The frame filter between the switch and the door: it keeps traffic between nodes away from the door.

QEMU's user-mode network accepts every frame it sees, whatever its destination MAC address. Without the filter
it would answer each connection between two nodes with a reset, in the name of the other node.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

_LARGEST = 1 << 16  # bytes of a frame
_PATIENCE = 0.05  # seconds to wait for a full socket; then the frame is dropped, as on any network
_DOOR_PREFIX = b"\x52\x55"  # first bytes of the MAC addresses of QEMU's user-mode network


def is_for_the_door(frame: bytes) -> bool:
    """Whether a frame is a broadcast or multicast, or is sent to an address of QEMU's user-mode network."""
    return frame[:2] == _DOOR_PREFIX or bool(frame[:1] and frame[0] & 1)


@contextlib.contextmanager
def guarded(switch: socket.socket, door: socket.socket) -> Iterator[None]:
    """Forward frames between two datagram sockets, connected to the switch and the door, during the block."""
    with contextlib.ExitStack() as stack:
        for end in (switch, door):
            end.settimeout(_PATIENCE)
        stopped, stop = socket.socketpair()
        stack.enter_context(stopped)
        thread = threading.Thread(target=_forward, args=(switch, door, stopped), name="guard")
        thread.start()
        stack.callback(thread.join)
        stack.enter_context(stop)  # closed first on the way out, which ends the thread
        yield


def _forward(switch: socket.socket, door: socket.socket, stopped: socket.socket) -> None:
    with selectors.DefaultSelector() as ready:
        for end in (switch, door, stopped):
            ready.register(end, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is stopped:
                    return
                with contextlib.suppress(
                    OSError
                ):  # the other end is gone, or its buffer is full: drop the frame
                    if key.fileobj is door:
                        switch.send(door.recv(_LARGEST))
                    elif is_for_the_door(frame := switch.recv(_LARGEST)):
                        door.send(frame)
