"""A content known by its sha256 is known again, and no other is."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.card.contents import Contents


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@given(st.binary(min_size=1), st.binary(), st.booleans())
def test_says_what_sha256_says(data: bytes, other: bytes, seen: bool) -> None:
    contents = Contents()
    if seen:
        assert contents.has(memoryview(data), digest(data))
    assert contents.has(memoryview(other), digest(data)) == (other == data)
    assert contents.has(memoryview(data), digest(data))
    assert not contents.has(memoryview(data), digest(other)) or data == other


@given(st.binary(min_size=1, max_size=4096), st.data())
def test_one_flipped_bit_is_another_content(data: bytes, draw: st.DataObject) -> None:
    contents = Contents()
    assert contents.has(memoryview(data), digest(data))
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not contents.has(memoryview(flipped), digest(data))


def test_no_two_runs_have_the_same_key() -> None:
    assert Contents()._key != Contents()._key
