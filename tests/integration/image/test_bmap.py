"""Block maps, judged by bmaptool; and damaged or hostile ones."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.errors import PiimgError
from imagebuilder.image import bmap
from imagebuilder.image.allocation import used_ranges
from imagebuilder.image.bmap import BLOCK, PIECE, BlockMap, Range
from imagebuilder.system.process import ToolError, run
from tests.integration.image.making import fill_boot, make_image, put
from tests.support import checkout

DATA = checkout.DATA / "bmap"
FIVE = b"".join(bytes([65 + number]) * 4096 for number in range(5))[:-100]  # the image of the maps in DATA


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_make_hashes_pieces_and_the_last_partial_block(tmp_path: Path) -> None:
    image = tmp_path / "any.img"
    data = os.urandom(3 * PIECE + 1234)
    image.write_bytes(data)
    reported: list[int] = []
    used = [(0, BLOCK), (PIECE - BLOCK, 2 * PIECE + BLOCK), (3 * PIECE - BLOCK, len(data))]
    made = bmap.make(image, used, reported.append)
    expected = [
        (0, BLOCK),
        (PIECE - BLOCK, PIECE),
        (PIECE, 2 * PIECE),
        (2 * PIECE, 2 * PIECE + BLOCK),
        (3 * PIECE - BLOCK, 3 * PIECE),
        (3 * PIECE, len(data)),
    ]
    assert made == BlockMap(
        len(data),
        BLOCK,
        "sha256",
        tuple(Range(start, end, sha256(data[start:end])) for start, end in expected),
    )
    assert reported == [end - start for start, end in expected]
    assert made.used == sum(reported)


def test_make_tells_of_an_image_that_is_missing_or_shrinks(tmp_path: Path) -> None:
    with pytest.raises(PiimgError, match="cannot read"):
        bmap.make(tmp_path / "missing", [(0, BLOCK)])
    (tmp_path / "short").write_bytes(bytes(BLOCK))
    with pytest.raises(PiimgError, match="shorter"):
        bmap.make(tmp_path / "short", [(0, 2 * BLOCK)])


def test_bmaptool_accepts_the_map_and_finds_every_flipped_byte(tmp_path: Path) -> None:
    made = make_image(tmp_path / "node.img", tail=1000)
    fill_boot(made, tmp_path / "boot", {"kernel8.img": os.urandom(700_000)})
    block_map = bmap.make(made.path, used_ranges(made.path))
    bmap.write(tmp_path / "node.bmap", block_map)
    judge: list[str | Path] = [
        "bmaptool",
        "copy",
        "--bmap",
        tmp_path / "node.bmap",
        made.path,
        tmp_path / "card",
    ]
    run(judge)
    card = (tmp_path / "card").read_bytes()
    image = made.path.read_bytes()
    assert len(card) == len(image)
    assert all(card[one.start : one.end] == image[one.start : one.end] for one in block_map)
    for one in (block_map.ranges[0], block_map.ranges[len(block_map.ranges) // 2], block_map.ranges[-1]):
        for at in (one.start, one.end - 1):
            put(made.path, at, bytes([image[at] ^ 1]))
            with pytest.raises(ToolError) as caught:
                run(judge)
            assert caught.value.status == 1
            assert b"checksum mismatch for blocks range" in caught.value.stdout + caught.value.stderr
            put(made.path, at, image[at : at + 1])
    gap = next(a.end for a, b in zip(block_map.ranges, block_map.ranges[1:], strict=False) if a.end < b.start)
    put(made.path, gap, b"\xaa")
    run(judge)  # what is not in use is nobody's business


def test_reads_what_bmaptool_made(tmp_path: Path) -> None:
    image = tmp_path / "sparse.img"
    with image.open("wb") as stream:
        stream.truncate(1 << 20)
        for at in (0, 40_960, 1 << 19):
            stream.seek(at)
            stream.write(os.urandom(9000))
        stream.truncate((1 << 20) - 77)
    run(["bmaptool", "create", "-o", tmp_path / "theirs.bmap", image])
    theirs = bmap.read(tmp_path / "theirs.bmap")
    assert len(theirs.ranges) == 3
    assert theirs == bmap.make(image, [(their.start, their.end) for their in theirs])


EXPECTED = {  # blocks 0, 2 to 3, and the partial 4 in use
    "1.2": ("", ["", "", ""]),
    "1.3": (
        "sha1",
        [hashlib.sha1(part).hexdigest() for part in (FIVE[:4096], FIVE[8192:16384], FIVE[16384:])],
    ),
    "1.4": ("sha256", [sha256(part) for part in (FIVE[:4096], FIVE[8192:16384], FIVE[16384:])]),
    "2.0": ("sha256", [sha256(part) for part in (FIVE[:4096], FIVE[8192:16384], FIVE[16384:])]),
}


@pytest.mark.parametrize("version", sorted(EXPECTED))
def test_reads_each_version_as_bmaptool_does(tmp_path: Path, version: str) -> None:
    algorithm, digests = EXPECTED[version]
    path = DATA / f"five-blocks-{version}.bmap"
    places = [(0, 4096), (8192, 16384), (16384, len(FIVE))]
    ranges = tuple(Range(*place, digest) for place, digest in zip(places, digests, strict=True))
    assert bmap.read(path) == BlockMap(len(FIVE), 4096, algorithm, ranges)
    (tmp_path / "five.img").write_bytes(FIVE)
    run(["bmaptool", "copy", "--bmap", path, tmp_path / "five.img", tmp_path / "out"])
    assert (tmp_path / "out").read_bytes() == FIVE[:4096] + bytes(4096) + FIVE[8192:]


def test_an_empty_map_is_legal(tmp_path: Path) -> None:
    empty = BlockMap(8192, BLOCK, "sha256", ())
    bmap.write(tmp_path / "empty.bmap", empty)
    assert bmap.read(tmp_path / "empty.bmap") == empty


def test_write_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "node.bmap"
    good = BlockMap(8192, BLOCK, "sha256", (Range(0, 4096, "0" * 64),))
    bmap.write(path, good)
    before = path.read_bytes()
    for bad in (Range(1, 4096, ""), Range(0, 4095, ""), Range(4096, 4096, "")):
        with pytest.raises(ValueError, match="whole blocks"):
            bmap.write(path, BlockMap(8192, BLOCK, "sha256", (bad,)))
    with pytest.raises(PiimgError, match="cannot write"):
        bmap.write(tmp_path / "missing" / "node.bmap", good)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@st.composite
def block_maps(draw: st.DrawFn) -> BlockMap:
    block = draw(st.sampled_from([512, 4096, 65536]))
    size = draw(st.integers(1, 200 * block))
    algorithm = draw(st.sampled_from(["sha1", "sha256", "sha512"]))
    count = -(-size // block)
    cuts = sorted(draw(st.sets(st.integers(0, count), max_size=12)))
    hex_digest = st.binary(min_size=8, max_size=8).map(lambda seed: hashlib.new(algorithm, seed).hexdigest())
    digests = st.one_of(st.just(""), hex_digest)
    return BlockMap(
        size,
        block,
        algorithm,
        tuple(
            Range(first * block, min(end * block, size), draw(digests))
            for first, end in zip(cuts[::2], cuts[1::2], strict=False)
        ),
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block_maps())
def test_reads_back_what_it_wrote(tmp_path: Path, block_map: BlockMap) -> None:
    bmap.write(tmp_path / "any.bmap", block_map)
    assert bmap.read(tmp_path / "any.bmap") == block_map


def signed(text: str) -> bytes:
    """``text`` with its BmapFileChecksum put right, so that only what was changed is wrong."""
    place = re.compile("(?<=<BmapFileChecksum> )[0-9a-f]{64}")
    blank = place.sub("0" * 64, text)
    return place.sub(sha256(blank.encode()), blank).encode()


GOOD = (DATA / "five-blocks-2.0.bmap").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('version="2.0"', 'version="3.0"', "version '3.0', and piimg reads up to 2"),
        ('version="2.0"', 'version="1.5"', "version '1.5'"),
        ('version="2.0"', 'version="two"', "version 'two'"),
        ('version="2.0"', "", "version ''"),
        ("bmap", "map", "no bmap element"),
        ("> 20380 <", "> 0 <", "0 bytes"),
        ("> 20380 <", "> 2038O <", "not a number"),
        ("> 20380 <", "> -20380 <", "not a number"),
        ("> 20380 <", f"> {'9' * 5000} <", "not a number"),
        ("> 20380 <", "> 20481 <", "BlocksCount"),
        ("<BlockSize> 4096", "<BlockSize> 0", "blocks of 0"),
        ("<BlockSize> 4096", "<BlockSize> 4095", "blocks of 4095"),
        ("<BlocksCount> 5", "<BlocksCount> 6", "BlocksCount"),
        ("<MappedBlocksCount> 4", "<MappedBlocksCount> 5", "MappedBlocksCount"),
        ("<ImageSize> 20380 </ImageSize>", "", "no ImageSize"),
        ("> sha256 <", "> shake_128 <", "unknown type 'shake_128'"),
        ("> sha256 <", "> crc32 <", "unknown type"),
        ("> 2-3 <", "> 3-2 <", "out of order"),
        ("> 2-3 <", "> 0-1 <", "out of order"),
        ("> 2-3 <", "> 2-4 <", "out of order"),
        ("> 4 <", "> 5 <", "outside the image"),
        ("> 2-3 <", "> 2-3-4 <", "not a number"),
        ("> 2-3 <", "> <", "not a number"),
        ("> 2-3 <", "> \u0662-\u0663 <", "not a number"),
        ('chksum="', 'chksum="0', "no proper checksum"),
        ('chksum="', 'chksum="\u00e9', "no proper checksum"),
        ("</bmap>", "", "no element found"),
        ("<bmap", '<!DOCTYPE bmap [<!ENTITY a "b">]><bmap', "declares a document type"),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    refused(tmp_path, signed(GOOD.replace(old, new)), words)


def refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "bad.bmap"
    path.write_bytes(data)
    with pytest.raises(PiimgError, match=words) as caught:
        bmap.read(path)
    assert caught.value.hint
    assert len(caught.value.message) < 300 + len(str(path))


def test_a_map_that_was_changed_or_is_no_map_is_refused(tmp_path: Path) -> None:
    assert signed(GOOD) == GOOD.encode()
    refused(tmp_path, GOOD.replace(" 2-3 ", " 2-3").encode(), "does not match")
    refused(tmp_path, re.sub(r"[0-9a-f]{64} </Bmap", "</Bmap", GOOD).encode(), "missing")
    refused(tmp_path, re.sub(r"[0-9a-f]{64} </Bmap", "A" * 64 + " </Bmap", GOOD).encode(), "hexadecimal")
    refused(tmp_path, GOOD.encode("utf-16"), "utf-8")
    refused(tmp_path, b"", "no element")
    refused(tmp_path, bytes(4096), "not a usable block map")
    refused(tmp_path, GOOD.encode() + bytes(32 << 20), "larger than")
    refused(tmp_path, b"<bmap>" * 200_000, "no element found")
    refused(tmp_path, b"<bmap>" + b"<a>" * 200_000 + b"</a>" * 200_000 + b"</bmap>", "version ''")
    with pytest.raises(PiimgError, match="cannot read"):
        bmap.read(tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 30), st.text(max_size=8)), max_size=4
        ).map(lambda changes: signed(_changed(changes))),
    )
)
def test_nothing_but_a_piimgerror_or_a_sound_map(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzzed.bmap"
    path.write_bytes(data)
    try:
        block_map = bmap.read(path)
    except PiimgError:
        return
    end = 0
    for one in block_map:
        assert end <= one.start < one.end <= block_map.image_size
        end = one.end


def _changed(changes: list[tuple[int, int, str]]) -> str:
    text = GOOD
    for at, length, new in changes:
        text = text[:at] + new + text[at + length :]
    return text
