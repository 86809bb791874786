"""The trunk port of the virtual switch: what a node's VLAN carries, and nothing else."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.boot.trunk import tagged, trunked, untagged

FRAMES = st.binary(min_size=60, max_size=1514)
VLANS = st.integers(1, 4094)


@given(FRAMES, VLANS)
def test_a_tag_is_put_on_and_taken_off(frame: bytes, vlan: int) -> None:
    """IEEE 802.1Q: after the addresses, 0x8100, and the number in the last twelve bits."""
    with_tag = tagged(frame, vlan)
    assert with_tag[:12] == frame[:12] and with_tag[16:] == frame[12:]
    assert with_tag[12:14] == b"\x81\0" and int.from_bytes(with_tag[14:16]) == vlan
    assert untagged(with_tag, vlan) == frame
    assert untagged(with_tag, vlan % 4094 + 1) == b""
    prioritised = with_tag[:14] + bytes([with_tag[14] | 0xE0]) + with_tag[15:]
    assert untagged(prioritised, vlan) == frame


@given(st.binary(max_size=80))
def test_a_frame_without_a_tag_is_not_the_vlans(frame: bytes) -> None:
    if frame[12:14] != b"\x81\0":
        assert untagged(frame, 10) == b""
    assert not untagged(frame, 10) or len(untagged(frame, 10)) >= 60


def test_frames_pass_between_the_switch_and_the_node() -> None:
    (hub, near), (node, far) = (socket.socketpair(type=socket.SOCK_DGRAM) for _ in range(2))
    with hub, near, node, far:
        for end in (hub, far):
            end.settimeout(5)
        frame = bytes(range(60))
        with trunked(near, node, 10):
            hub.send(frame)
            assert far.recv(2000) == tagged(frame, 10)
            far.send(frame)  # without a tag: not for the LAN
            far.send(tagged(frame, 11))
            far.send(tagged(frame, 10))
            assert hub.recv(2000) == frame
