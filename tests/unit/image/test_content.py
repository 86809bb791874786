"""The content of an image that is a base and changed blocks: any range, wherever it begins and ends."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.image.content import ImageContent

UNIT = 8


@given(
    base=st.binary(max_size=90),
    marks=st.lists(st.integers(0, 15), unique=True, max_size=8).map(sorted),
    start=st.integers(0, 128),
    count=st.integers(0, 128),
)
def test_any_range(base: bytes, marks: list[int], start: int, count: int) -> None:
    spans = tuple((marks[at] * UNIT, marks[at + 1] * UNIT) for at in range(0, len(marks) - 1, 2))
    changes = bytes((at * 7 + 1) % 256 for at in range(sum(end - begin for begin, end in spans)))
    whole = bytearray(base.ljust(128, b"\0"))
    at = 0
    for begin, end in spans:
        whole[begin:end] = changes[at : at + end - begin]
        at += end - begin
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "base", Path(name) / "changes"]
        files[0].write_bytes(base)
        files[1].write_bytes(changes)
        count = min(count, 128 - start)
        into = bytearray(b"\xff" * count)
        with ImageContent(files[0], 128, files[1], spans).opened() as content:
            content.read(start, memoryview(into))
    assert into == whole[start : start + count]


def test_changes_that_were_cut_off_are_no_zeros(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(64))
    (tmp_path / "changes").write_bytes(b"1234")
    content = ImageContent(tmp_path / "base", 64, tmp_path / "changes", ((8, 16),))
    with content.opened() as opened, pytest.raises(OSError):
        opened.read(8, memoryview(bytearray(8)))
