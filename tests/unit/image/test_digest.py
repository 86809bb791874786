"""The digest of a tree: its records, and that only the same tree has the same."""

import hashlib
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.image.digest import TreeEntry, digest, records_of
from imagebuilder.model import Partition


def test_a_record_is_what_the_description_says() -> None:
    entry = TreeEntry(
        Partition.ROOT, b"/a", "f", 0o4755, 1, 22, b"cafe", 99, ((b"user.z", b""), (b"user.b", b"\0v"))
    )
    fields = b"4:root,2:/a,1:f,4:4755,1:1,2:22,4:cafe,2:99,6:user.b,2:\0v,6:user.z,0:,"
    assert digest(records_of([entry])) == hashlib.sha256(b"%d:%b," % (len(fields), fields)).hexdigest()
    bare = TreeEntry(Partition.BOOT, b"/", "d")
    fields_of_bare = b"4:boot,1:/,1:d,1:0,1:0,1:0,0:,0:,"
    both = b"%d:%b,%d:%b," % (len(fields_of_bare), fields_of_bare, len(fields), fields)
    assert (
        digest(records_of([entry, bare]))
        == digest(records_of([bare, entry]))
        == hashlib.sha256(both).hexdigest()
    )
    assert digest({}) == hashlib.sha256(b"").hexdigest()


short = st.binary(max_size=4)


tree_entries = st.builds(
    TreeEntry,
    st.sampled_from(Partition),
    short,
    st.sampled_from("fdl"),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    short,
    st.one_of(st.none(), st.integers(-9, 9)),
    st.lists(st.tuples(short, short), max_size=2, unique_by=lambda pair: pair[0]).map(
        lambda pairs: tuple(sorted(pairs))
    ),
)


trees = st.lists(tree_entries, max_size=3, unique_by=lambda entry: (entry.partition, entry.path))


@settings(max_examples=200)
@given(trees, trees)
def test_only_the_same_tree_has_the_same_digest(one: list[TreeEntry], other: list[TreeEntry]) -> None:
    assert (digest(records_of(one)) == digest(records_of(other))) == (set(one) == set(other))
    assert digest(records_of(one)) == digest(records_of(reversed(one)))
    for number, entry in enumerate(one):
        moved = replace(entry, path=entry.path + entry.data[:1], data=entry.data[1:])
        if moved != entry:
            assert digest(records_of([*one[:number], moved, *one[number + 1 :]])) != digest(records_of(one))
