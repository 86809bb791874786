"""The guard of the door, with QEMU's real switch and sockets that stand for two nodes."""

import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder import manifest
from imagebuilder.boot import frame_filter
from imagebuilder.boot.network import switched
from imagebuilder.model import Cluster
from imagebuilder.resources import shipped

MACS = {"worker1": bytes.fromhex("b827eb000001"), "worker2": bytes.fromhex("b827eb000002")}


ADDRESSES = {
    "worker1": bytes((10, 0, 0, 11)),
    "worker2": bytes((10, 0, 0, 12)),
    "door": bytes((10, 0, 0, 254)),
}


DOOR = bytes.fromhex("52550a0000fe")  # the MAC address of 10.0.0.254


ALL = b"\xff" * 6


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def syn(source: str, target: str, mac: bytes) -> bytes:
    """A frame with which ``source`` begins a connection to port 22 of ``target``."""
    ends = ADDRESSES[source] + ADDRESSES[target]
    tcp = struct.pack("!HHIIBBHHH", 40000, 22, 1, 0, 5 << 4, 0x02, 1024, 0, 0)
    tcp = tcp[:16] + struct.pack("!H", checksum(ends + struct.pack("!HH", 6, len(tcp)) + tcp)) + tcp[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + ends
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return mac + MACS[source] + b"\x08\x00" + header + tcp


def who_has(source: str, target: str) -> bytes:
    """An ARP request to all (RFC 826)."""
    asked = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + MACS[source] + ADDRESSES[source]
    return ALL + MACS[source] + b"\x08\x06" + asked + bytes(6) + ADDRESSES[target]


class Node:
    """A node's end of the cable."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(1)

    def send(self, frame: bytes) -> None:
        """Send a frame to the switch."""
        self.end.send(frame)

    def next(self) -> bytes:
        """The next frame. Raises TimeoutError when for a second there is none."""
        return self.end.recv(1 << 16)

    def heard(self) -> list[bytes]:
        """The frames that came until for a second there was none."""
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(self.next())
        return found


@contextlib.contextmanager
def wired(folder: Path) -> Iterator[dict[str, Node]]:
    """Two nodes on a switch."""
    cluster: Cluster = manifest.load(shipped("manifests") / "picluster.toml")
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(switched(folder, cluster, [cluster.node(name) for name in MACS]))
        ends = {name: stack.enter_context(socket.socket(fileno=os.dup(switch.cables[name]))) for name in MACS}
        yield {name: Node(end) for name, end in ends.items()}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, Node]]:
    """Two nodes on a switch."""
    with wired(tmp_path) as found:
        yield found


def test_a_node_that_does_not_listen_holds_up_nobody_and_keeps_nothing_busy(tmp_path: Path) -> None:
    """For a minute a node that starts takes no frame: what waits for it must not keep a core busy."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with wired(tmp_path) as nodes:
        for _ in range(1000):  # more than the other's socket has room for
            nodes["worker1"].send(who_has("worker1", "door"))
            nodes["worker1"].next()
        time.sleep(5)
        assert len(nodes["worker2"].heard()) == 2000  # and none is lost: what was asked, and the answers
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun < 2.5


def test_nobody_answers_in_another_nodes_name(nodes: dict[str, Node]) -> None:
    nodes["worker1"].send(who_has("worker1", "door"))  # now the door knows worker1, and could answer it
    assert nodes["worker1"].heard() and nodes["worker2"].heard()
    frame = syn("worker1", "worker2", MACS["worker2"])
    nodes["worker1"].send(frame)
    assert nodes["worker2"].heard() == [frame]
    assert nodes["worker1"].heard() == []


def test_without_the_guard_the_door_does(nodes: dict[str, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guard is for, and that the test above can fail."""
    monkeypatch.setattr(frame_filter, "is_for_the_door", lambda frame: True)
    nodes["worker1"].send(who_has("worker1", "door"))
    assert nodes["worker1"].heard() and nodes["worker2"].heard()
    nodes["worker1"].send(syn("worker1", "worker2", MACS["worker2"]))
    (answer,) = nodes["worker1"].heard()
    assert answer[6:12] == DOOR and answer[26:30] == ADDRESSES["worker2"]
    assert answer[47] & 0x04  # RST


def test_the_door_is_asked_and_answers(nodes: dict[str, Node]) -> None:
    nodes["worker1"].send(who_has("worker1", "door"))
    (answer,) = nodes["worker1"].heard()
    assert answer[:12] == MACS["worker1"] + DOOR
    assert nodes["worker2"].heard()[0][:6] == ALL
