"""What would be lost if a card were erased, on file systems that the real tools made."""

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.card.carried import unfinished_line
from imagebuilder.card.lost import what_is_lost
from imagebuilder.errors import PiimgError
from imagebuilder.image.exfat import names_at_top
from imagebuilder.system import loop
from imagebuilder.system.process import run
from tests.card.conftest import MIB, make_image

SIZE = 128 * MIB
PART = 4 * MIB  # bytes; where the partition of a card begins


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """The bytes of a card, all zeros."""
    file = tmp_path / "card"
    file.touch()
    os.truncate(file, SIZE)
    return file


def partitioned(card: Path, *types: str) -> None:
    """Give the card partitions of these types, 36 MiB each; the first begins at ``PART``."""
    starts = range(PART // MIB, SIZE // MIB, 36)
    lines = "".join(
        f"start={at}MiB,size=36MiB,type={kind}\n" for at, kind in zip(starts, types, strict=False)
    )
    run(["sfdisk", "--quiet", card], data=f"label: dos\n{lines}".encode())


def put(part: Path, card: Path, offset: int) -> None:
    """Copy a file system into the card."""
    with part.open("rb") as source, card.open("r+b") as target:
        target.seek(offset)
        shutil.copyfileobj(source, target)


def fat(card: Path, offset: int = PART, *files: str) -> None:
    run(["mkfs.vfat", "-F", "32", "-s", "1", "--offset", str(offset // 512), card, str(36 << 10)])
    for name in files:
        run(["mcopy", "-i", f"{card}@@{offset}", "-", f"::{name}"], data=b"x")


@contextmanager
def exfat(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An exFAT file system of 32 MiB with small clusters, and where it is mounted."""
    for program, package in (("mkfs.exfat", "exfatprogs"), ("mount.exfat-fuse", "exfat-fuse")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: sudo apt-get install {package}")
    part, point = tmp_path / "part", tmp_path / "point"
    part.touch()
    os.truncate(part, 32 * MIB)
    point.mkdir()
    subprocess.run(["mkfs.exfat", "-c", "4K", "-L", "CARD", part], check=True, capture_output=True)
    with loop.attached(part) as device:
        subprocess.run(["mount.exfat-fuse", device, point], check=True, capture_output=True)
        try:
            yield part, point
        finally:
            subprocess.run(["umount", point], check=True)


def filled_exfat(tmp_path: Path, names: Sequence[str]) -> Path:
    with exfat(tmp_path) as (part, point):
        for name in names:
            (point / name).mkdir()
    return part


def on_fat(card: Path, *more: str | Path) -> None:
    """A card with a FAT partition, on which one of the mtools was run."""
    partitioned(card, "c")
    fat(card, PART)
    if more:
        run([more[0], "-i", f"{card}@@{PART}", *more[1:]])


def starts_with(card: Path, data: bytes) -> None:
    card.write_bytes(data)
    os.truncate(card, SIZE)


BLANKS: dict[str, Callable[[Path], None]] = {
    "zeros": lambda card: None,
    "ones": lambda card: starts_with(card, b"\xff" * (2 * MIB)),
    "a run was cut off": lambda card: starts_with(card, unfinished_line("a", "b") + os.urandom(2 * MIB)),
    "a run failed": lambda card: starts_with(card, bytes(MIB) + os.urandom(MIB)),
    "no partitions": partitioned,
    "FAT": on_fat,
    "FAT alone": lambda card: fat(card, 0),
    "FAT with a label": lambda card: on_fat(card, "mlabel", "::CARD"),
    "FAT that Windows saw": lambda card: on_fat(card, "mmd", "::System Volume Information"),
}


@pytest.mark.parametrize("what", BLANKS)
def test_nothing_is_lost_of_a_new_card(card: Path, what: str) -> None:
    BLANKS[what](card)
    assert what_is_lost(card) == ""


def hidden(card: Path) -> None:
    partitioned(card, "c")
    fat(card, PART, ".nomedia")
    run(["mattrib", "+h", "-i", f"{card}@@{PART}", "::.nomedia"])


def with_file(card: Path) -> None:
    partitioned(card, "c")
    fat(card, PART, "a.jpg")


def with_root(card: Path) -> None:
    partitioned(card, "c", "83")
    fat(card)


def behind_the_table(card: Path) -> None:
    partitioned(card)
    poke(card, 600, b"x")


def poke(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        os.pwrite(stream.fileno(), data, offset)


UNKNOWN = "something that cannot be made out on partition 1"
NO_TABLE = "something without partitions"
HELD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (with_file, "files (a.jpg) on partition 1"),
    "a hidden file": (hidden, "files (.nomedia) on partition 1"),
    "files and no partitions": (lambda card: fat(card, 0, "a", "b", "c", "d"), "files (a, b, c, …)"),
    "another system": (with_root, "partition 2 of type 83"),
    "no file system": (lambda card: partitioned(card, "c"), UNKNOWN),
    "NTFS, or none": (lambda card: partitioned(card, "7"), UNKNOWN),
    "extended": (lambda card: partitioned(card, "83", "5"), "an unknown partition table"),
    "GPT": (lambda card: run(["sfdisk", "-q", card], data=b"label: gpt\n,\n"), "a partition table (GPT)"),
    "ext4": (lambda card: run(["mkfs.ext4", "-q", card]), NO_TABLE),
    "noise": (lambda card: starts_with(card, os.urandom(MIB)), NO_TABLE),
    "one byte behind a table": (behind_the_table, NO_TABLE),
    "one byte of the first MiB": (lambda card: poke(card, MIB - 1, b"x"), NO_TABLE),
}


@pytest.mark.parametrize("what", HELD)
def test_what_is_lost_is_told(card: Path, what: str) -> None:
    make, told = HELD[what]
    make(card)
    assert what_is_lost(card) == told


def test_a_node_is_lost_too(tmp_path: Path) -> None:
    assert "files (piimg.json, noise) on partition 1" in what_is_lost(
        make_image(tmp_path / "x.img", "worker1")
    )


def test_what_cannot_be_read_is_no_empty_card(tmp_path: Path) -> None:
    with pytest.raises(PiimgError, match="cannot read"):
        what_is_lost(tmp_path / "none")


@pytest.mark.parametrize("names", [[], ["System Volume Information"]], ids=len)
def test_a_new_exfat_card_is_empty(root: None, card: Path, tmp_path: Path, names: list[str]) -> None:
    put(filled_exfat(tmp_path, names), card, 0)
    assert what_is_lost(card) == ""
    os.truncate(card, 0)
    os.truncate(card, SIZE)
    partitioned(card, "7")
    put(tmp_path / "part", card, PART)
    assert what_is_lost(card) == ""


def test_files_on_exfat_are_told(root: None, card: Path, tmp_path: Path) -> None:
    """More than one cluster of them; what was removed is not there any more."""
    long = "a name that needs more than one entry for its letters.jpg"
    names = sorted([long, "ä€.txt", *(f"DSC{number:05}.JPG" for number in range(300))])
    with exfat(tmp_path) as (part, point):
        for name in [*names, "gone"]:
            (point / name).write_text("x")
        (point / "gone").unlink()
    assert sorted(names_at_top(part, 0)) == names
    partitioned(card, "7")
    put(part, card, PART)
    assert what_is_lost(card).startswith("files (") and what_is_lost(card).endswith(", …) on partition 1")


def test_an_exfat_directory_that_goes_round_in_a_circle_is_given_up(root: None, tmp_path: Path) -> None:
    part = filled_exfat(tmp_path, [f"{number:03}" for number in range(200)])
    data = part.read_bytes()
    table, first = (int.from_bytes(data[at : at + 4], "little") for at in (80, 96))
    poke(part, table * 512 + 4 * first, first.to_bytes(4, "little"))
    with pytest.raises(PiimgError, match="no exFAT file system that makes sense"):
        names_at_top(part, 0)


@settings(max_examples=300, deadline=None)
@given(noise=st.dictionaries(st.integers(80, 127), st.integers(0, 255), max_size=12))
def test_a_spoilt_exfat_is_never_more_than_a_complaint(noise: dict[int, int]) -> None:
    boot = bytearray(4096)
    boot[3:11] = b"EXFAT   "
    struct.pack_into("<5I8xBB", boot, 80, 8, 8, 8, 1, 2, 9, 3)  # its one cluster, of noise, begins behind it
    for at, value in noise.items():
        boot[at] = value
    handle = os.memfd_create("exfat")
    try:
        os.write(handle, bytes(boot) + os.urandom(4096))
        names_at_top(Path(f"/proc/self/fd/{handle}"), 0)
    except PiimgError:
        pass
    finally:
        os.close(handle)
