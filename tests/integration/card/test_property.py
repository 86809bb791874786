"""For any image, any card and any fault: what is called good is right, and what is not does not boot."""

import os
import struct
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.card.report import CardReport, Verdict, WriteMode
from imagebuilder.card.source import HEAD, ImageSource, Piece
from imagebuilder.card.write import NO_NODE, FlashJob, flash
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Silent
from imagebuilder.image import bmap
from imagebuilder.image.content import ImageContent
from tests.integration.card.rig import MIB, OLD, SIZE, Rig, below, require

BLOCK = 4096  # bytes
BLOCKS = 10 * MIB // BLOCK  # of the largest image
SIGNATURE = b"\x55\xaa"

Fault = dict[str, str | int]
Moves = list[tuple[int, int, int]]
"""Where blocks of a card really are: so many blocks from the first one on lie at the third one."""

places = st.integers(0, BLOCKS * BLOCK - 1)
times = st.one_of(st.none(), st.integers(1, 6))


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    """What is wrong with the card; mostly something."""
    kind = draw(st.sampled_from(["none", "wrap", "limbo", "at", "at", "at", "after"]))
    if kind in ("wrap", "limbo"):
        return {kind: draw(st.integers(HEAD // BLOCK, 14 * MIB // BLOCK)) * BLOCK}
    if kind == "none":
        return {}
    name = draw(
        st.sampled_from(
            ["write-error", "read-error", "lost-write", "torn-write", "flip-on-write", "flip-on-read"]
        )
    )
    if kind == "after":
        name = draw(st.sampled_from(["write-error", "read-error"]))
        return {"fault": name, "after": draw(st.integers(0, 12 * MIB))}
    often = draw(times)
    return {"fault": name, "at": draw(places), **({"times": often} if often else {})}


blocks = st.integers(0, 14 * MIB // BLOCK)
moves: st.SearchStrategy[Moves] = st.lists(
    st.tuples(blocks, st.sampled_from([1, 1, 2, 16, 256, 1024]), blocks), min_size=1, max_size=6
)


def address_map(moves: Moves) -> list[int]:
    """The block that each block of the card really is: many may be the same one."""
    real = list(range(SIZE // BLOCK))
    for start, count, to in moves:
        for at in range(start, min(start + count, len(real))):
            real[at] = (to + at - start) % len(real)
    return real


Layout = list[tuple[int, int, bytes]]
layouts = st.lists(
    st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 600), st.sampled_from([b"\0", b"\xff", b""])),
    min_size=1,
    max_size=12,
)
"""Ranges in use: first block, number of blocks, and the byte they are filled with; else with noise."""


def made_image(layout: Layout) -> tuple[bytes, list[tuple[int, int]]]:
    """An image, and what of it is in use: the first block, and the ranges of ``layout``."""
    used, content = bytearray(BLOCKS), bytearray(BLOCKS * BLOCK)
    for start, length, fill in [(0, 1, b"\0"), *layout]:
        end = min(start + length, BLOCKS)
        size = (end - start) * BLOCK
        content[start * BLOCK : end * BLOCK] = fill * size if fill else os.urandom(size)
        used[start:end] = b"\1" * (end - start)
    content[510:512] = SIGNATURE
    edges = [
        at for at in range(BLOCKS + 1) if (used[at - 1] if at else 0) != (used[at] if at < BLOCKS else 0)
    ]
    ranges = [(low * BLOCK, high * BLOCK) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    return bytes(content), ranges


@st.composite
def priors(draw: st.DrawFn) -> tuple[str, list[int]]:
    """What the card holds before: nothing, or the image with some blocks changed."""
    kind = draw(st.sampled_from(["ones", "noise", "image", "image"]))
    return kind, draw(st.lists(st.integers(0, BLOCKS - 1), max_size=20)) if kind == "image" else []


def prior_content(prior: tuple[str, list[int]], image: bytes) -> bytes:
    kind, changed = prior
    if kind == "ones":
        return bytes([OLD]) * SIZE
    if kind == "noise":
        return os.urandom(SIZE)
    content = bytearray(image.ljust(SIZE, bytes([OLD])))
    for block in changed:
        content[block * BLOCK] ^= 0xFF
    return bytes(content)


def made_source(folder: Path, image: bytes, ranges: list[tuple[int, int]]) -> ImageSource:
    path = folder / "image"
    path.write_bytes(image)
    block_map = bmap.make(path, ranges)
    pieces = tuple(Piece(one.start, one.end, bytes.fromhex(one.digest)) for one in block_map)
    return ImageSource(str(path), ImageContent(path, len(image)), block_map, pieces)


def held(medium: bytes, fault: Fault, start: int, end: int) -> bytes:
    """What a card of this medium holds there: a fake has less of it."""
    wrap, limbo = int(fault.get("wrap", SIZE)), int(fault.get("limbo", SIZE))
    places = (at % wrap for at in range(start, end, BLOCK))
    return b"".join(medium[at : at + BLOCK] if at < limbo else bytes(BLOCK) for at in places)


def check(report: CardReport, before: bytes, medium: bytes, source: ImageSource, fault: Fault) -> None:
    image = source.content.base.read_bytes()
    if report.verdict is Verdict.GOOD:
        for one in source.map:
            assert held(medium, fault, one.start, one.end) == image[one.start : one.end], report
        assert report.written + report.skipped >= source.used
        assert (report.mode is WriteMode.NOTHING) is (report.written == 0)
    else:
        assert report.verdict in (Verdict.BAD, Verdict.FAILED)
        assert report.error and fault
        # It boots only as it did before, where its first block cannot be written at all.
        assert medium[510:512] != SIGNATURE or medium[:512] == before[:512], report
        if medium[510:512] == SIGNATURE:
            assert report.written == 0, report


@pytest.mark.long
@pytest.mark.timeout(600)
@settings(
    max_examples=int(os.environ.get("PIIMG_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(layout=layouts, prior=priors(), fault=faults(), full=st.booleans())
def test_good_is_right_and_what_is_not_good_does_not_boot(
    root: None,
    layout: Layout,
    prior: tuple[str, list[int]],
    fault: Fault,
    full: bool,
) -> None:
    require()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        image, ranges = made_image(layout)
        source = made_source(folder, image, ranges)
        disk = Rig(folder, stack)(**fault)
        before = prior_content(prior, image)
        below(disk).write_bytes(before)
        report = flash(
            FlashJob(disk=disk, source=source, target=NO_NODE, full=full), Silent(), threading.Event()
        )
        check(report, before, below(disk).read_bytes(), source, fault)
        if not fault:
            assert report.verdict is Verdict.GOOD


@pytest.mark.long
@pytest.mark.timeout(600)
@settings(
    max_examples=int(os.environ.get("PIIMG_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(
    layout=layouts,
    prior=priors(),
    moves=moves,
    changed=st.lists(st.integers(1, BLOCKS - 1), max_size=5),
    known=st.booleans(),
)
def test_good_is_right_wherever_the_blocks_of_a_card_really_are(
    root: None,
    layout: Layout,
    prior: tuple[str, list[int]],
    moves: Moves,
    changed: list[int],
    known: bool,
) -> None:
    """The card is flashed, flashed again untouched, and flashed with an image that differs in some blocks.

    ``known``: that last time it is known what was written before, whether or not that came out good.
    """
    require()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        image, ranges = made_image(layout)
        source = made_source(folder, image, ranges)
        real = address_map(moves)
        file = folder / "map"
        file.write_bytes(struct.pack(f"={len(real)}I", *real))
        disk = Rig(folder, stack)(map=str(file))
        below(disk).write_bytes(prior_content(prior, image))
        for _ in range(2):
            check_mapped(
                flash(FlashJob(disk=disk, source=source, target=NO_NODE), Silent(), threading.Event()),
                disk,
                source,
                real,
            )
        other = bytearray(image)
        for block in changed:
            other[block * BLOCK : (block + 1) * BLOCK] = os.urandom(BLOCK)
        (folder / "other").mkdir()
        newer = made_source(folder / "other", bytes(other), ranges)
        job = FlashJob(disk=disk, source=newer, target=NO_NODE, earlier=[source.pieces] if known else ())
        check_mapped(flash(job, Silent(), threading.Event()), disk, newer, real)


def check_mapped(report: CardReport, disk: Disk, source: ImageSource, real: list[int]) -> None:
    """Good implies that every byte in use is right, and all else that the card does not boot."""
    medium, image = below(disk).read_bytes(), source.content.base.read_bytes()
    if report.verdict is Verdict.GOOD:
        for one in source.map:
            for at in range(one.start, one.end, BLOCK):
                place = real[at // BLOCK] * BLOCK
                assert medium[place : place + BLOCK] == image[at : at + BLOCK], report
    else:
        assert report.verdict is Verdict.BAD, report
        assert medium[real[0] * BLOCK :][510:512] != SIGNATURE, report
