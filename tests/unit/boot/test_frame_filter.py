"""Which frames the door of the virtual switch is to see."""

import pytest

from imagebuilder.boot.frame_filter import is_for_the_door

WORKER = bytes.fromhex("b827eb000001")
DOOR = bytes.fromhex("52550a0000fe")  # the MAC address of 10.0.0.254
ALL = b"\xff" * 6


@pytest.mark.parametrize(
    ("frame", "expected"),
    [(DOOR, True), (ALL, True), (b"\x33\x33\0\0\0\1", True), (WORKER, False), (b"", False)],
)
def test_what_is_for_the_door(frame: bytes, expected: bool) -> None:
    assert is_for_the_door(frame) is expected
