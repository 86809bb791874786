"""What is kept of a base image, and that nothing that changed is taken for known."""

import hashlib
import os
from pathlib import Path

import pytest

from imagebuilder.events import Silent
from imagebuilder.image import bmap
from imagebuilder.image.allocation import used_ranges
from imagebuilder.image.base_index import Known, known_of
from imagebuilder.image.partitions import boot_and_root, read_table
from tests.integration.image.making import Made, fill_boot, make_image, mounted_root, needs_root, put
from tests.support.trees import records_in

ODD = b"caf\xe9 \n%"  # no UTF-8


@pytest.fixture
def base(tmp_path: Path) -> Made:
    made = make_image(tmp_path / "base.img", root=65536)
    (tmp_path / "kept").mkdir()
    fill_boot(made, tmp_path / "boot", {"A long name.txt": b"odd", "cmdline.txt": b"root=/dev/mmcblk0p2"})
    with mounted_root(made, tmp_path / "mnt") as root:
        for number in range(40):
            (root / f"file{number}").write_bytes(os.urandom(50_000))
        (root / os.fsdecode(ODD)).write_bytes(b"odd")
    return made


def index_of(made: Made) -> Path:
    """Where what is known is kept; not beside the image, where nobody but the cache may write."""
    return made.path.parent / "kept" / "index"


def look(made: Made, sha256: str = "a" * 64) -> Known:
    boot, root = boot_and_root(read_table(made.path))
    return known_of(made.path, sha256, boot, root, "base", Silent(), index_of(made))


@needs_root
def test_what_is_known_is_right_and_kept(base: Made, tmp_path: Path) -> None:
    before = hashlib.sha256(base.path.read_bytes()).hexdigest()
    known = look(base)
    assert hashlib.sha256(base.path.read_bytes()).hexdigest() == before, "the base was written to"
    block_map = bmap.make(base.path, used_ranges(base.path))
    assert known.pieces == {(one.start, one.end): one.digest for one in block_map}
    assert known.records == records_in(base.path)
    assert {("root", b"/" + ODD), ("boot", b"/A long name.txt")} <= set(known.records)
    kept = index_of(base)
    written = kept.stat().st_mtime_ns
    assert look(base) == known
    assert kept.stat().st_mtime_ns == written, "it was made again"


@needs_root
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format":1}', b'{"format":2,"sha256":5}'])
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
