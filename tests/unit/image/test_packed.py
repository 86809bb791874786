"""Packed images: any content, any ranges in use, unpacked by zstd; and damage to the file that is found."""

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.errors import PiimgError
from imagebuilder.image import packed as packing
from imagebuilder.image.allocation import joined
from imagebuilder.image.packed import REGION, pack, pack_unused, regions, writing
from imagebuilder.system.process import run

BLOCK = 4096
LARGEST = 3 * REGION // BLOCK  # blocks


def write(file: Path, content: bytes, used: list[tuple[int, int]]) -> str:
    """Write ``content`` as a packed image; the digest of the file."""
    file.touch()
    with writing(file) as one:
        for region in regions(len(content), used):
            if region.pieces:
                data = bytearray(region.size)
                for start, end in region.pieces:
                    data[start - region.start : end - region.start] = content[start:end]
                one.add(pack(region, bytes(data)))
            else:
                one.add(pack_unused(region))
        digest = one.finish()
        for part in one.ranges:
            assert hashlib.sha256(content[part.start : part.end]).hexdigest() == part.digest
        assert list(joined((part.start, part.end) for part in one.ranges)) == list(joined(used))
        assert one.size == file.stat().st_size
    return digest


spans = st.lists(st.tuples(st.integers(0, LARGEST - 1), st.integers(1, 700)), max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, LARGEST), st.integers(0, 7), spans, st.integers(0, 2**32))
def test_any_image_is_unpacked_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    blocks: int,
    sectors: int,
    spans: list[tuple[int, int]],
    seed: int,
) -> None:
    size = (blocks - 1) * BLOCK + (sectors + 1) * 512
    chance, content = random.Random(seed), bytearray(size)
    cut = [(start * BLOCK, min((start + count) * BLOCK, size)) for start, count in spans]
    used = list(joined((start, end) for start, end in cut if start < end))
    for start, end in used:
        text = b"text" * (end - start)
        content[start:end] = chance.choice((chance.randbytes(end - start), text[: end - start]))
    file = tmp_path_factory.mktemp("packed") / "one.img.zst"
    digest = write(file, bytes(content), used)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert run(["zstd", "-dcq", file]).stdout == bytes(content)


def test_what_is_not_in_use_takes_next_to_nothing(tmp_path: Path) -> None:
    """An image of 64 GB of which one block is in use."""
    file, size = tmp_path / "large.img.zst", 64 << 30
    file.touch()
    with writing(file) as one:
        for region in regions(size, [(0, BLOCK)]):
            content = os.urandom(BLOCK) + bytes(REGION - BLOCK)
            one.add(pack(region, content) if region.pieces else pack_unused(region))
        one.finish()
    assert file.stat().st_size < 8 << 20


@pytest.mark.parametrize("place", [0, 20 << 20, -5])
def test_damage_to_the_file_is_found_when_it_is_read_back(
    tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program changes a byte that was written."""
    monkeypatch.setattr(packing, "_STEP", 64 << 20)  # nothing is read back before the damage
    file = tmp_path / "one.img.zst"
    file.touch()
    with writing(file) as one:
        for region in regions(6 * REGION, [(0, 6 * REGION)]):
            one.add(pack(region, os.urandom(REGION)))
        with file.open("r+b") as stream:
            at = place % one.size
            (byte,) = os.pread(stream.fileno(), 1, at)
            os.pwrite(stream.fileno(), bytes([byte ^ 1]), at)
        with pytest.raises(PiimgError, match="is read back wrong"):
            one.finish()


def test_damage_is_found_while_more_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_STEP", REGION)
    file = tmp_path / "one.img.zst"
    file.touch()
    with pytest.raises(PiimgError, match="is read back wrong"), writing(file) as one:
        for number, region in enumerate(regions(64 * REGION, [(0, 64 * REGION)])):
            right = pack(region, os.urandom(REGION))
            one.add(right if number else packing.Packed(region, right.frame, ("0" * 64,) * 4))
        raise AssertionError("all of it was written")
