"""Which places of a card are looked at for something that would be lost."""

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.device.sample import MIB, Span, gaps, places

SIZES = st.integers(1, 1 << 41)


@st.composite
def sizes_and_spans(draw: st.DrawFn) -> tuple[int, list[Span]]:
    """The size of a card, and spans that begin on it; they may reach beyond its end."""
    size = draw(SIZES)
    low, length = st.integers(0, size - 1), st.integers(0, size + MIB)
    spans = draw(st.lists(st.tuples(low, length).map(lambda pair: (pair[0], sum(pair))), max_size=6))
    return size, spans


def test_gaps_are_what_nothing_covers() -> None:
    assert gaps([], 10) == [(0, 10)]
    assert gaps([(0, 10)], 10) == []
    assert gaps([(6, 8), (2, 4)], 10) == [(0, 2), (4, 6), (8, 10)]
    assert gaps([(1, 9), (2, 3)], 10) == [(0, 1), (9, 10)]


@given(sizes_and_spans())
def test_gaps_and_what_is_used_make_up_the_card(drawn: tuple[int, list[Span]]) -> None:
    size, used = drawn
    left = gaps(used, size)
    assert gaps([*used, *left], size) == []
    assert all(0 <= low < high <= size for low, high in left)
    assert all(min(high, end) <= max(low, start) for low, high in left for start, end in used)


@given(sizes_and_spans())
def test_places_are_in_order_apart_and_within_their_part(drawn: tuple[int, list[Span]]) -> None:
    size, used = drawn
    for low, high in gaps(used, size):
        found = places((low, high), size)
        edges = [edge for place in found for edge in place]
        assert found and edges == sorted(set(edges))
        assert found[0][0] == low and found[-1][1] == high


def test_a_card_is_read_in_seconds() -> None:
    """About 800 places, and not much more than the start and the end whole."""
    found = places((0, 32 << 30), 32 << 30)
    assert len(found) < 1000
    assert sum(end - start for start, end in found) < 12 * MIB
