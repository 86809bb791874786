"""What is kept of a base image, and that nothing that changed is taken for known."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.events import Silent
from imagebuilder.image import bmap
from imagebuilder.image.allocation import used_ranges
from imagebuilder.image.base_index import Known, known_of
from imagebuilder.image.digest import digest, walk_root
from imagebuilder.image.partitions import boot_and_root, read_table
from imagebuilder.system.files import copy_sparse
from tests.integration.image.making import Made, make_image, mounted_root, needs_root, put

ODD = b"caf\xe9 \n%"  # no UTF-8


@pytest.fixture
def base(tmp_path: Path) -> Made:
    made = make_image(tmp_path / "base.img", root=65536)
    (tmp_path / "kept").mkdir()
    with mounted_root(made, tmp_path / "mnt") as root:
        for number in range(40):
            (root / f"file{number}").write_bytes(os.urandom(50_000))
        (root / os.fsdecode(ODD)).write_bytes(b"odd")
    return made


def index_of(made: Made) -> Path:
    """Where what is known is kept; not beside the image, where nobody but the cache may write."""
    return made.path.parent / "kept" / "index"


def look(made: Made, sha256: str = "a" * 64) -> Known:
    _, root = boot_and_root(read_table(made.path))
    return known_of(made.path, sha256, root, "base", Silent(), index_of(made))


@needs_root
def test_what_is_known_is_right_and_kept(base: Made, tmp_path: Path) -> None:
    before = hashlib.sha256(base.path.read_bytes()).hexdigest()
    known = look(base)
    assert hashlib.sha256(base.path.read_bytes()).hexdigest() == before, "the base was written to"
    block_map = bmap.make(base.path, used_ranges(base.path))
    assert known.pieces == {(one.start, one.end): one.digest for one in block_map}
    with mounted_root(base, tmp_path / "mnt", "ro") as root:
        there = {b"/" + os.fsencode(path.name) for path in root.iterdir()}
        assert set(known.files) == there - {b"/lost+found"}
        for path, (_, its) in known.files.items():
            content = (root / os.fsdecode(path[1:])).read_bytes()
            assert its == hashlib.sha256(content).hexdigest()
    kept = index_of(base)
    written = kept.stat().st_mtime_ns
    assert look(base) == known
    assert kept.stat().st_mtime_ns == written, "it was made again"


@needs_root
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format":1}', b'{"format":1,"sha256":5}'])
def test_what_was_kept_and_cannot_be_used_is_made_anew(base: Made, damage: bytes) -> None:
    known = look(base)
    kept = index_of(base)
    whole = kept.read_bytes()
    kept.write_bytes(damage or whole[:-9])
    assert look(base) == known
    assert kept.read_bytes() == whole


@needs_root
def test_what_is_known_of_another_image_is_not_used(base: Made) -> None:
    look(base)
    put(base.path, base.root_at + base.root_size - 4096, b"x")
    assert b'"sha256":"b' not in index_of(base).read_bytes()
    look(base, "b" * 64)
    assert b'"sha256":"b' in index_of(base).read_bytes()


@needs_root
def test_a_file_that_was_changed_is_read_again(base: Made, tmp_path: Path) -> None:
    """Size and mtime as they were, content, mode, or the file itself another."""
    known = look(base)
    work = tmp_path / "node.img"
    copy_sparse(base.path, work)
    node = Made(work, base.boot_at, base.boot_size, base.root_at, base.root_size)
    with mounted_root(node, tmp_path / "mnt") as root:
        time.sleep(0.02)  # the kernel's clock for file times ticks every few milliseconds
        for name in ("file1", "file2", "file3"):
            status = (root / name).stat()
            if name == "file2":
                (root / name).rename(root / "away")
                (root / "file20").rename(root / name)
            else:
                with (root / name).open("r+b") as stream:
                    stream.write(b"changed")
            os.utime(root / name, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert known.digest_of(f"/{name}".encode(), (root / name).stat()) is None
        assert known.digest_of(b"/file4", (root / "file4").stat()) is not None
        assert known.digest_of(b"/new", (root / "file4").stat()) is None
        assert known.digest_of(b"/file5", (root / "file4").stat()) is None
        assert digest(walk_root(root, (), known.digest_of)) == digest(walk_root(root))
    made = bmap.make(work, used_ranges(work), None, known.file, known.pieces)
    assert made == bmap.make(work, used_ranges(work))


def test_a_piece_that_differs_in_one_byte_is_hashed(tmp_path: Path) -> None:
    base, work = tmp_path / "base", tmp_path / "work"
    data = os.urandom(bmap.PIECE + 300_000)
    base.write_bytes(data)
    used = [(0, len(data))]
    plain = bmap.make(base, used)
    pieces = {(one.start, one.end): one.digest for one in plain}
    for place in (0, 131_071, 131_072, bmap.PIECE - 1, bmap.PIECE, len(data) - 1):
        other = bytearray(data)
        other[place] ^= 1
        work.write_bytes(other)
        assert bmap.make(work, used, None, base, pieces) == bmap.make(work, used) != plain
    work.write_bytes(data)
    lies = dict.fromkeys(pieces, "0" * 64)
    taken = bmap.make(work, used, None, base, lies)
    assert {one.digest for one in taken} == {"0" * 64}, "what is the same is not hashed"


def test_a_base_that_went_away_is_reported(tmp_path: Path) -> None:
    (tmp_path / "work").write_bytes(bytes(4096))
    with pytest.raises(PiimgError, match="cannot read"):
        bmap.make(tmp_path / "work", [(0, 4096)], None, tmp_path / "gone", {(0, 4096): "0" * 64})
