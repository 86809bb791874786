"""The file on a card that says which node it carries."""

import json

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.device.identity import Carried, parse_identity


def test_the_identity_file_is_read() -> None:
    assert parse_identity(b'{"node": "worker1", "cluster": "picluster"}') == Carried("worker1", "picluster")
    assert parse_identity(b'{"node": "worker1", "cluster": 7}') == Carried("worker1")


HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.just(b"[" * 100_000),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["node", "cluster", "x"]), inner),
    ).map(lambda document: json.dumps(document).encode()),
)


@given(HOSTILE)
def test_no_identity_file_can_harm(data: bytes) -> None:
    found = parse_identity(data)
    for name in (found.node, found.cluster):
        assert name == "" or (name.isascii() and name.replace("-", "").isalnum() and len(name) <= 63)
