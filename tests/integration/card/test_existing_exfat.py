"""What would be lost if a card with exFAT were erased."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.device.existing import existing_data
from imagebuilder.system import loop
from imagebuilder.system.process import run
from tests.integration.card.conftest import MIB
from tests.integration.card.existing_cards import PART, SIZE, partitioned, poke, put, zeros


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card that holds nothing: a file of zeros."""
    return zeros(tmp_path)


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


@pytest.mark.parametrize("names", [[], ["System Volume Information"]], ids=len)
def test_a_new_exfat_card_is_empty(root: None, card: Path, tmp_path: Path, names: list[str]) -> None:
    put(filled_exfat(tmp_path, names), card, 0)
    assert existing_data(card) == ""
    os.truncate(card, 0)
    os.truncate(card, SIZE)
    partitioned(card, "7")
    put(tmp_path / "part", card, PART)
    assert existing_data(card) == ""


def test_files_on_exfat_are_reported(root: None, card: Path, tmp_path: Path) -> None:
    """More than one cluster of them; what was removed is not there any more."""
    long = "a name that needs more than one entry for its letters.jpg"
    with exfat(tmp_path) as (part, point):
        for name in ["gone", long, "ä€.txt", *(f"DSC{number:05}.JPG" for number in range(300))]:
            (point / name).write_text("x")
        (point / "gone").unlink()
    partitioned(card, "7")
    put(part, card, PART)
    assert existing_data(card) == f"files ({long[:23]}…, ä€.txt, DSC00000.JPG, …) on partition 1"


def test_files_in_a_system_folder_of_exfat_are_reported(root: None, card: Path, tmp_path: Path) -> None:
    with exfat(tmp_path) as (part, point):
        (point / "System Volume Information").mkdir()
        (point / "System Volume Information" / "WPSettings.dat").write_bytes(bytes(12))
        (point / "LOST.DIR").mkdir()
        (point / "LOST.DIR" / "1").write_text("recovered")
    put(part, card, 0)
    assert existing_data(card) == "files (LOST.DIR/1)"


def test_exfat_clusters_without_a_name_are_reported(root: None, card: Path, tmp_path: Path) -> None:
    """The root folder's entry of a file is gone, its clusters are still in use."""
    with exfat(tmp_path) as (part, point):
        (point / "a.jpg").write_bytes(os.urandom(50_000))
    data = part.read_bytes()
    entry = data.index("a.jpg".encode("utf-16-le")) - 2  # behind those of the file and of its clusters
    for at in (entry - 64, entry - 32, entry):
        poke(part, at, bytes([data[at] & 0x7F]))
    put(part, card, 0)
    assert existing_data(card) == "data that belongs to no file"


def test_an_exfat_card_as_the_sd_formatter_leaves_it(root: None, tmp_path: Path) -> None:
    """SDXC: the partition begins at 16 MiB and ends with the card, clusters have 128 KiB; deleted files."""
    card, part = tmp_path / "sdxc", tmp_path / "large"
    for file, size in ((card, 4 << 30), (part, (4 << 30) - 16 * MIB)):
        file.touch()
        os.truncate(file, size)
    run(["sfdisk", "--quiet", card], data=b"label: dos\nstart=16MiB,type=7\n")
    run(["mkfs.exfat", "-c", "128K", "-b", "4M", part])
    run(["dd", f"if={part}", f"of={card}", "bs=1M", "seek=16", "conv=sparse,notrunc", "status=none"])
    poke(card, 1 << 30, b"x" * 4096)  # free
    assert existing_data(card) == ""
    poke(card, 8 * MIB, b"x")
    assert existing_data(card) == f"data at byte {8 * MIB} outside of any partition"
