"""Anything in place of a manifest: bytes, documents, changes of the example, a bomb."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster
from imagebuilder.toml import SIZE_LIMIT
from tests.support.toml_text import documents, mutated
from tests.unit.core.test_manifest import TEXT, parse


def cluster_or_refusal(raw: bytes) -> Any:
    begun = time.monotonic()
    try:
        outcome: Any = parse(raw)
    except UsageError as error:
        assert error.message.isprintable()
        outcome = error
    assert time.monotonic() - begun < 2
    return outcome


FUZZ = settings(deadline=None, max_examples=150)


@given(
    st.binary(max_size=400) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
@FUZZ
def test_any_bytes_are_refused(raw: bytes) -> None:
    assert isinstance(cluster_or_refusal(raw), UsageError)


@given(documents(("cluster", "lan", "user", "gateway", "node", "vars", "name", "base", "address", "secret")))
@FUZZ
def test_any_document_is_refused(text: str) -> None:
    assert isinstance(cluster_or_refusal(text.encode()), UsageError)


@given(mutated(TEXT))
@settings(deadline=None, max_examples=250)
def test_any_change_of_the_example_is_a_cluster_or_refused(raw: bytes) -> None:
    assert isinstance(cluster_or_refusal(raw), Cluster | UsageError)


def test_a_dotted_bomb_of_full_size_is_quick() -> None:
    line = "a." * 100 + "b%d = 1\n"
    text = "".join(line % number for number in range(SIZE_LIMIT // len(line) - 10))
    begun = time.process_time()
    with pytest.raises(UsageError):
        parse(text)
    assert time.process_time() - begun < 5
