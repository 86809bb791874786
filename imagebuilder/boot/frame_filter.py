"""What stands between the switch and the door: it keeps from the door what the nodes say to one another.

QEMU's user-mode network takes every frame it sees for its own, whatever MAC address it is sent to. On the
switch itself it would answer each connection between two nodes with a reset, in the other node's name.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

_LARGEST = 1 << 16  # bytes of a frame
_PATIENCE = 0.05  # seconds for a full socket; then the frame is lost, as frames may be
_OURS = b"\x52\x55"  # how the MAC addresses of QEMU's user-mode network begin


def is_for_the_door(frame: bytes) -> bool:
    """Whether a frame goes to all, or to an address of QEMU's user-mode network."""
    return frame[:2] == _OURS or bool(frame[:1] and frame[0] & 1)


@contextlib.contextmanager
def guarded(switch: socket.socket, door: socket.socket) -> Iterator[None]:
    """Carry frames between two datagram sockets, connected to the switch and the door, in the block."""
    with contextlib.ExitStack() as stack:
        for end in (switch, door):
            end.settimeout(_PATIENCE)
        stopped, stop = socket.socketpair()
        stack.enter_context(stopped)
        thread = threading.Thread(target=_carry, args=(switch, door, stopped), name="guard")
        thread.start()
        stack.callback(thread.join)
        stack.enter_context(stop)  # closed first, which ends the thread
        yield


def _carry(switch: socket.socket, door: socket.socket, stopped: socket.socket) -> None:
    with selectors.DefaultSelector() as ready:
        for one in (switch, door, stopped):
            ready.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is stopped:
                    return
                with contextlib.suppress(OSError):  # nobody there any more, or no room: the frame is lost
                    if key.fileobj is door:
                        switch.send(door.recv(_LARGEST))
                    elif is_for_the_door(frame := switch.recv(_LARGEST)):
                        door.send(frame)
