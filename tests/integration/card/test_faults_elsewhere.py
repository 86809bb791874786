"""Cards on which a write lands elsewhere, or damages what lies beside it: flashed, and flashed again."""

import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.card.report import CardReport, Verdict, WriteMode
from imagebuilder.card.source import ImageSource, open_source
from imagebuilder.card.write import NO_NODE, FlashJob, flash, verify
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Silent
from imagebuilder.image import bmap
from tests.integration.card.faults import Bench, first_wrong, tell
from tests.integration.card.rig import MIB, OLD, SIZE, Rig, below
from tests.integration.card.test_faults_fake import f3_size, f3probe

pytestmark = pytest.mark.long

LIES = "Cards that lie about their size"
BREAKS = "Cards that break"
BLOCK = 4096
KIB = 1024
IMAGE = 56 * MIB


def window(at: int) -> int:
    """It has 48 MiB; what lies beyond them lands in the last 8 MiB of those."""
    return at if at < 48 * MIB else 40 * MIB + at % (8 * MIB)


def dead_bit(low: int, high: int) -> Callable[[int], int]:
    """The address bit ``low`` is dead where the bit ``high`` is set."""
    return lambda at: at & ~low if at & high else at


def twice(at: int) -> int:
    """One MiB lies twice: [20 MiB, 21 MiB) is really [6 MiB, 7 MiB)."""
    return at - 14 * MIB if 20 * MIB <= at < 21 * MIB else at


FAKES = {
    "folds what lies beyond 48 MiB into a window": window,
    "the address bit for 64 KiB is dead where that for 2 MiB is set": dead_bit(64 * KIB, 2 * MIB),
    "the address bit for 4 MiB is dead where that for 16 MiB is set": dead_bit(4 * MIB, 16 * MIB),
    "one MiB lies twice": twice,
}


def address_map(folder: Path, real: Callable[[int], int], size: int = SIZE) -> tuple[Path, list[int]]:
    """Where each block of such a card is, and a file that says so."""
    blocks = [real(at) // BLOCK for at in range(0, size, BLOCK)]
    file = folder / f"map-{os.urandom(4).hex()}"
    file.write_bytes(struct.pack(f"={len(blocks)}I", *blocks))
    return file, blocks


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """An image of 56 MiB of which every byte is in use, and no two blocks are the same."""
    image = tmp_path_factory.mktemp("full") / "full.img"
    content = bytearray(os.urandom(IMAGE))
    content[510:512] = b"\x55\xaa"
    image.write_bytes(content)
    bmap.write(image.with_suffix(".bmap"), bmap.make(image, [(0, IMAGE)]))
    return open_source(image)


def flashed(disk: Disk, source: ImageSource, **options: bool) -> CardReport:
    return flash(FlashJob(disk=disk, source=source, target=NO_NODE, **options), Silent(), threading.Event())  # type: ignore[arg-type]


def boots(disk: Disk) -> bool:
    """Whether a card has the signature of a partition table."""
    with below(disk).open("rb") as stream:
        return stream.read(512)[510:] == b"\x55\xaa"


@pytest.mark.parametrize("name", FAKES)
def test_a_fake_is_bad_however_often_it_is_flashed(
    make_faulty: Rig, full: ImageSource, tmp_path: Path, name: str
) -> None:
    file, _ = address_map(tmp_path, FAKES[name])
    disk = make_faulty(map=str(file))
    for _ in range(3):
        report = flashed(disk, full)
        assert (report.verdict, report.offset is not None) == (Verdict.BAD, True), report
        assert not boots(disk)
        assert (
            verify(FlashJob(disk=disk, source=full, target=NO_NODE), Silent(), threading.Event()).verdict
            is Verdict.BAD
        )
    said = f3probe(make_faulty(map=str(file)))
    tell(LIES, f"{name}; flashed three times", report.verdict, "a byte that it does not keep", f3(said))


def f3(said: str) -> str:
    """What f3probe calls a card. It writes next to nothing, so it cannot find every one of these."""
    kinds = ("real thing", "damaged", "wraparound", "limbo", "chain")
    kind = next(kind for kind in kinds if kind in said)
    return f"{kind}{f3_size(said)}"


@pytest.mark.parametrize("name", FAKES)
def test_a_fake_that_holds_the_image_already_is_bad(
    make_faulty: Rig, full: ImageSource, tmp_path: Path, name: str
) -> None:
    """Most of it is right before the writing. What is written then spoils that elsewhere."""
    file, blocks = address_map(tmp_path, FAKES[name])
    for backwards in (False, True):
        disk = make_faulty(map=str(file))
        preload(below(disk), full.content.base.read_bytes(), blocks, backwards)
        report = flashed(disk, full)
        assert (report.verdict, report.mode) == (Verdict.BAD, WriteMode.DIFFERENCES), report
        assert not boots(disk)


def preload(medium: Path, image: bytes, blocks: list[int], backwards: bool) -> None:
    """Put an image on a card as its address map has it; of two blocks in one place the last one stays."""
    content = bytearray([OLD]) * SIZE
    order = range(0, len(image), BLOCK)
    for at in reversed(order) if backwards else order:
        real = blocks[at // BLOCK] * BLOCK
        content[real : real + BLOCK] = image[at : at + BLOCK]
    medium.write_bytes(content)


SPOILERS: dict[str, dict[str, str | int]] = {
    "each write spoils the 4 KiB behind it": {"spoil": "behind"},
    "each write spoils a page of its erase block": {"spoil": "page"},
    "each 2nd write goes elsewhere": {"misdirect": 24 * MIB, "every": 2},
}


@pytest.mark.parametrize("name", SPOILERS)
def test_a_write_that_does_damage_elsewhere_is_noticed(
    make_faulty: Rig, full: ImageSource, name: str
) -> None:
    disk = make_faulty(**SPOILERS[name])
    fresh = flashed(disk, full)
    check(fresh, full, disk)
    with below(disk).open("r+b") as medium:  # as if flashed before, but for one block in the middle
        medium.write(full.content.base.read_bytes())
        medium.seek(30 * MIB + 12 * BLOCK)
        medium.write(bytes([OLD]) * BLOCK)
    again = flashed(disk, full)
    check(again, full, disk)
    assert fresh.verdict is Verdict.BAD
    tell(BREAKS, name, "for good", fresh.verdict, "byte, outside of the partitions", "some")


@pytest.mark.parametrize("every", [2, 3, 4, 5])
@pytest.mark.parametrize("before", range(5))
def test_a_bad_card_loses_the_table_that_it_had_though_writes_go_elsewhere(
    make_faulty: Rig, full: ImageSource, every: int, before: int
) -> None:
    """Whichever write is struck: also one that is to fill the head with zeros."""
    disk = make_faulty(misdirect=24 * MIB, every=every)
    with below(disk).open("r+b") as medium:
        medium.write(full.content.base.read_bytes())
        medium.seek(30 * MIB + 12 * BLOCK)
        medium.write(bytes([OLD]) * BLOCK)
    with disk.node.open("r+b", buffering=0) as device:
        for _ in range(before):
            os.pwrite(device.fileno(), bytes(BLOCK), SIZE - BLOCK)
            os.fsync(device.fileno())
    check(flashed(disk, full), full, disk)


def check(report: CardReport, source: ImageSource, disk: Disk) -> None:
    """What is called good is right to the last byte, and nothing else boots."""
    assert (first_wrong(source, below(disk)) is None) is (report.verdict is Verdict.GOOD)
    assert boots(disk) is (report.verdict is Verdict.GOOD)


@pytest.mark.parametrize("every", [3, 5, 11, 29])
@pytest.mark.parametrize("how", [{"spoil": "behind"}, {"spoil": "page"}, {"misdirect": 3 * MIB}], ids=str)
def test_what_is_called_good_is_right_however_seldom_a_write_goes_wrong(
    bench: Bench, how: dict[str, str | int], every: int
) -> None:
    """Whatever the verdict is: bmaptool agrees with it, and only a good card boots."""
    bench.flash(bench.make_faulty(**how, every=every))


def test_paranoid_reads_all_of_it_after_the_last_write(make_faulty: Rig, full: ImageSource) -> None:
    """The write of the partition table damages what lies far away from it."""
    misdirected: dict[str, str | int] = {"fault": "flip-far", "at": 20, "far": 44 * MIB}
    for paranoid in (False, True):
        disk = make_faulty(**misdirected)
        report = flashed(disk, full, paranoid=paranoid)
        assert report.verdict is (Verdict.BAD if paranoid else Verdict.GOOD)
        assert boots(disk) is not paranoid
    whole = make_faulty()
    report = flashed(whole, full, paranoid=True)
    assert (report.verdict, report.read_back) == (Verdict.GOOD, full.used)
    assert flashed(whole, full, paranoid=True).mode is WriteMode.NOTHING
    tell(BREAKS, "the last write spoils a place far away", "once", Verdict.GOOD, "–", "0")
    tell(BREAKS, "the same with --paranoid", "once", Verdict.BAD, "byte, outside of the partitions", "3")


def test_what_a_volatile_cache_loses_is_found_once_the_card_was_out(
    make_faulty: Rig, full: ImageSource, tmp_path: Path
) -> None:
    """No program can know of it before: the card gives back from its cache what never reached the medium."""
    disk = make_faulty(volatile=8 * MIB)
    assert flashed(disk, full).verdict is Verdict.GOOD
    assert first_wrong(full, below(disk)) is not None
    out_and_in = make_faulty()
    below(out_and_in).write_bytes(below(disk).read_bytes())
    assert (
        verify(FlashJob(disk=out_and_in, source=full, target=NO_NODE), Silent(), threading.Event()).verdict
        is Verdict.BAD
    )
    tell(BREAKS, "it loses the last 8 MiB when the power goes", "for good", Verdict.GOOD, "–", "0")
    tell(
        BREAKS,
        "the same, taken out and put in again: `piimg verify`, or --reinsert",
        "for good",
        Verdict.BAD,
        "byte, outside of the partitions",
        "3",
    )
