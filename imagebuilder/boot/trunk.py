"""A trunk port of the virtual switch: a node's VLAN is joined to the LAN, where frames have no tag."""

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterator

_LARGEST = 1 << 16  # bytes of a frame
_PATIENCE = 0.05  # seconds to wait for a full socket; then the frame is dropped, as on any network
_ADDRESSES = 12  # bytes: target and source
_TYPE = 0x8100  # IEEE 802.1Q
_SHORTEST = 60  # bytes of a frame without its check sequence (IEEE 802.3)


def tagged(frame: bytes, vlan: int) -> bytes:
    """The frame in VLAN ``vlan``."""
    return frame[:_ADDRESSES] + struct.pack("!HH", _TYPE, vlan) + frame[_ADDRESSES:]


def untagged(frame: bytes, vlan: int) -> bytes:
    """The frame without its tag; empty if it is not in VLAN ``vlan``."""
    if len(frame) < _ADDRESSES + 4:
        return b""
    kind, tag = struct.unpack_from("!HH", frame, _ADDRESSES)
    if kind != _TYPE or tag & 0xFFF != vlan:
        return b""
    return (frame[:_ADDRESSES] + frame[_ADDRESSES + 4 :]).ljust(_SHORTEST, b"\0")


@contextlib.contextmanager
def trunked(switch: socket.socket, node: socket.socket, vlan: int) -> Iterator[None]:
    """Forward frames between two datagram sockets, connected to the switch and a node, during the block."""
    with contextlib.ExitStack() as stack:
        for end in (switch, node):
            end.settimeout(_PATIENCE)
        stopped, stop = socket.socketpair()
        stack.enter_context(stopped)
        thread = threading.Thread(target=_forward, args=(switch, node, stopped, vlan), name=f"vlan-{vlan}")
        thread.start()
        stack.callback(thread.join)
        stack.enter_context(stop)  # closed first on the way out, which ends the thread
        yield


def _forward(switch: socket.socket, node: socket.socket, stopped: socket.socket, vlan: int) -> None:
    with selectors.DefaultSelector() as ready:
        for end in (switch, node, stopped):
            ready.register(end, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is stopped:
                    return
                with contextlib.suppress(OSError):  # the other end is gone, or its buffer is full
                    if key.fileobj is switch:
                        node.send(tagged(switch.recv(_LARGEST), vlan))
                    elif frame := untagged(node.recv(_LARGEST), vlan):
                        switch.send(frame)
