"""Where the markers stand that find a card with a fake capacity."""

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.card.capacity import places

MIB = 1 << 20
BLOCK = 4096


def test_the_markers_are_at_doubling_distances_and_at_the_very_end() -> None:
    assert [piece.start for piece in places(16 * MIB)] == [MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB - BLOCK]
    assert [piece.start for piece in places(9 * MIB)] == [MIB, 2 * MIB, 4 * MIB, 8 * MIB, 9 * MIB - BLOCK]


@given(st.integers(0, 1 << 42))
def test_the_markers_lie_on_the_card_behind_its_head_and_apart(size: int) -> None:
    found = list(places(size))
    edges = [MIB, *(edge for piece in found for edge in (piece.start, piece.end)), size]
    assert found == [] or edges == sorted(edges)
    assert all(piece.size == BLOCK and piece.start % BLOCK == 0 for piece in found)
    assert bool(found) is (size >= MIB + BLOCK)
