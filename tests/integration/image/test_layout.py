"""The layout of image files: tables by sfdisk, file systems by their own programs, files cut short."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagebuilder.errors import UsageError
from imagebuilder.image.layout import ImageFile, examine_image_file
from imagebuilder.system.process import run

MIB = 1 << 20


def image_of(folder: Path, table: str, size: int = 64 * MIB) -> Path:
    image = folder / "os.img"
    image.touch()
    os.truncate(image, size)
    run(["sfdisk", "--quiet", image], data=table.encode())
    return image


def examined(image: Path) -> ImageFile:
    return examine_image_file(image, image.name)


MBR = "label: dos\nstart=1MiB,size=20MiB,type=c\nstart=32MiB,size=24MiB,type=83\n"
GPT = "label: gpt\nstart=1MiB,size=20MiB\nstart=32MiB,size=24MiB\n"
EXTENDED = (
    "label: dos\nstart=1MiB,size=10MiB,type=c\nstart=12MiB,size=50MiB,type=5\n"
    "start=13MiB,size=10MiB,type=83\nstart=30MiB,size=26MiB,type=83\n"
)


def hybrid(folder: Path) -> Path:
    image = image_of(folder, GPT)
    with image.open("r+b") as stream:
        os.pwrite(stream.fileno(), struct.pack("<B3xB3xII", 0, 0x0C, 2048, 40960), 446 + 16)
    return image


def test_an_mbr_needs_no_note(tmp_path: Path) -> None:
    found = examined(image_of(tmp_path, MBR))
    assert (found.size, len(found.slices), found.notes) == (64 * MIB, 2, ())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (GPT, "os.img has a GPT with 2 partitions: written as it is"),
        (EXTENDED, "os.img has an extended partition with 2 logical partitions: written as it is"),
    ],
)
def test_the_note_about_another_table_is_true(tmp_path: Path, table: str, said: str) -> None:
    found = examined(image_of(tmp_path, table))
    assert found.slices == ()
    (note,) = found.notes
    assert note.startswith(said) and "no partition table" not in note


def test_a_hybrid_has_both(tmp_path: Path) -> None:
    (note,) = examined(hybrid(tmp_path)).notes
    assert note.startswith("os.img has a GPT with 2 partitions and an MBR with 1 partition (hybrid)")


def test_a_gpt_without_its_second_copy(tmp_path: Path) -> None:
    image = image_of(tmp_path, GPT)
    os.truncate(image, 57 * MIB)
    (note,) = examined(image).notes
    assert "its second copy, at the end, is missing" in note


def test_a_damaged_gpt(tmp_path: Path) -> None:
    image = image_of(tmp_path, GPT)
    with image.open("r+b") as stream:
        os.pwrite(stream.fileno(), b"\xff", 512 + 72)
    (note,) = examined(image).notes
    assert "no valid GPT: is it damaged?" in note


@pytest.mark.parametrize(
    ("table", "number", "end"),
    [(MBR, 2, 56), (GPT, 2, 56), (EXTENDED, 6, 56)],
    ids=["MBR", "GPT", "extended"],
)
def test_an_image_that_ends_before_its_partition_is_refused(
    tmp_path: Path, table: str, number: int, end: int
) -> None:
    image = image_of(tmp_path, table)
    os.truncate(image, 40 * MIB)
    with pytest.raises(UsageError, match="cut short: partition") as caught:
        examined(image)
    if table is not EXTENDED:  # there the extended partition itself is the first that is cut short
        assert f"partition {number} ends {(end - 40) * MIB} bytes behind its end" in caught.value.message
        assert f"truncate -s {end * MIB} " in caught.value.hint
    os.truncate(image, 64 * MIB)  # as the hint says
    examined(image)


@pytest.mark.parametrize("kind", ["squashfs", "ext4", "vfat"])
def test_a_partition_that_is_larger_than_its_file_system_may_end_behind_the_image(
    tmp_path: Path, kind: str
) -> None:
    """OpenWrt's images end after their SquashFS, and the partition is larger."""
    image, system = image_of(tmp_path, MBR), tmp_path / kind
    system.touch()
    os.truncate(system, 4 * MIB)
    if kind == "squashfs":
        system.write_bytes(b"hsqs" + bytes(36) + struct.pack("<Q", 4 * MIB - 512) + bytes(4 * MIB - 48))
    else:
        run(["mkfs.ext4", "-q", "-F", system] if kind == "ext4" else ["mkfs.vfat", system])
    with image.open("r+b") as stream:
        stream.seek(32 * MIB)
        stream.write(system.read_bytes())
    os.truncate(image, 36 * MIB)
    (note,) = examined(image).notes
    assert (
        note == f"os.img: partition 2 ends {20 * MIB} bytes behind its end; the file system in it is complete"
    )
    os.truncate(image, 36 * MIB - 1024)
    with pytest.raises(UsageError, match="cut short"):
        examined(image)


def test_a_file_system_alone_is_named(tmp_path: Path) -> None:
    image = tmp_path / "root.img"
    image.touch()
    os.truncate(image, 8 * MIB)
    run(["mkfs.ext4", "-q", "-F", image])
    assert examined(image).notes == (
        "root.img is a file system (ext4) without a partition table: is it the right file?",
    )


def test_a_file_without_any_table(tmp_path: Path) -> None:
    image = tmp_path / "os.img"
    image.write_bytes(bytes(MIB))
    assert examined(image).notes == ("os.img has no partition table: is it the right file?",)


SECTOR = bytes(446) + struct.pack("<B3xB3xII", 0, 5, 1, 100) + bytes(48) + b"\x55\xaa"
FAR = bytes(446) + struct.pack("<B3xB3xII", 0, 5, 2**32 - 1, 2**32 - 1) + bytes(48) + b"\x55\xaa"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """Images with each table, and their first bytes."""
    images = [image_of(tmp_path_factory.mktemp("table"), table) for table in (MBR, GPT, EXTENDED)]
    return {image: image.read_bytes()[: 4 * 4096] for image in images}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3 * 4096), st.binary(min_size=1, max_size=64)), max_size=12))
@example([(0, SECTOR), (512, SECTOR)])  # a chain of logical partitions without end
@example([(0, SECTOR), (512, FAR)])
def test_any_bytes_give_a_layout_or_one_clear_error(
    tables: dict[Path, bytes], writes: list[tuple[int, bytes]]
) -> None:
    for image, start in tables.items():
        with image.open("r+b") as stream:
            for where, content in [(0, start), *writes]:
                os.pwrite(stream.fileno(), content, where)
        try:
            notes = examined(image).notes
            assert all("os.img" in note and str(image) not in note for note in notes)
        except UsageError as error:
            assert error.message.startswith("os.img") and error.hint
