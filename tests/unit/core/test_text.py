"""Text from outside, made fit to be shown, and what a misspelt word is meant for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.text import SHOWN, did_you_mean, printable


@given(st.text(st.characters(), max_size=300), st.none() | st.integers(1, 200))
def test_only_printable_characters_come_back(text: str, limit: int | None) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) == (len(text) if limit is None else min(len(text), limit))
    if text.isprintable() and len(shown) == len(text):
        assert shown == text


def test_what_hides_or_turns_text_is_replaced() -> None:
    assert printable("a\x1b[2J\u202eb\u200bc\udcff\x9b") == "a?[2J?b?c??"
    assert printable("one\ntwo\tthree", keep="\n") == "one\ntwo?three"
    assert printable("a\0b", instead="") == "ab"
    assert printable("x" * 200) == "x" * (SHOWN - 1) + "…"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("mastr", "; is master meant?"),
        ("worker9", ""),
        ("printer", ""),
    ],
)
def test_a_name_that_is_near(value: str, said: str) -> None:
    assert did_you_mean(value, ["master", "worker1", "worker2"]) == said
