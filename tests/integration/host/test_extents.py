"""Shared blocks are reported on a real file system with reflinks, and never where the bytes differ."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.system.extents import shared_ranges
from imagebuilder.system.files import copy_sparse
from imagebuilder.system.process import run

SIZE = 24 << 20  # bytes


@pytest.fixture(params=["xfs", "btrfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system with reflinks."""
    kind: str = request.param
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {kind}")
    disk, point = tmp_path / "disk", tmp_path / "point"
    with disk.open("wb") as stream:
        stream.truncate(400 << 20)
    point.mkdir()
    run([f"mkfs.{kind}", "-q", disk])
    run(["mount", "-o", "loop", disk, point])
    yield point
    run(["umount", point])


def test_what_is_shared_is_the_same_and_what_was_changed_is_not_shared(folder: Path) -> None:
    source = random.Random(1)
    data = source.randbytes(SIZE)
    base, copy = folder / "base", folder / "copy"
    base.write_bytes(data)
    copy_sparse(base, copy)
    places = [0, *(source.randrange(SIZE) for _ in range(30)), SIZE - 1]
    with copy.open("r+b") as stream:
        for place in places:
            stream.seek(place)
            stream.write(bytes([data[place] ^ 0xFF]))
    changed = copy.read_bytes()
    with base.open("rb") as one, copy.open("rb") as other:
        shared = shared_ranges(one.fileno(), other.fileno())
    assert shared == sorted(shared)
    assert sum(end - start for start, end in shared) > SIZE * 9 // 10
    assert all(data[start:end] == changed[start:end] for start, end in shared)
    assert not any(start <= place < end for place in places for start, end in shared)


def test_files_of_the_same_content_that_share_nothing(folder: Path, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    for one in (folder / "one", folder / "other", tmp_path / "elsewhere"):
        one.write_bytes(data)
    with (folder / "one").open("rb") as a, (folder / "other").open("rb") as b:
        assert shared_ranges(a.fileno(), b.fileno()) == []
    with (folder / "one").open("rb") as a, (tmp_path / "elsewhere").open("rb") as b:
        assert shared_ranges(a.fileno(), b.fileno()) == []
    with (tmp_path / "elsewhere").open("rb") as a, (tmp_path / "elsewhere").open("rb") as b:
        assert shared_ranges(a.fileno(), b.fileno()) == []
