"""Partition tables, judged by sfdisk; and hostile ones."""

import ctypes
import json
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import parted
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.errors import PiimgError
from imagebuilder.image.partitions import Slice, Table, boot_and_root, grow_root, read_table
from imagebuilder.system.process import run
from tests.integration.image.making import make_image, needs_root, put, write_table

MIB = 1 << 20
RASPBERRY_PI_OS = "start=16384,size=32768,type=c\nstart=49152,size=40960,type=83\n"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    with path.open("wb") as stream:
        stream.truncate(64 * MIB)
    return path


def judged(path: Path) -> Table:
    """The table as sfdisk reads it."""
    said = json.loads(run(["sfdisk", "--json", path]).stdout)["partitiontable"]
    slices = tuple(
        Slice(
            int(one["node"].removeprefix(str(path))),
            one["start"] * 512,
            one["size"] * 512,
            int(one["type"], 16),
        )
        for one in said.get("partitions", [])
    )
    return Table(said["id"].removeprefix("0x"), said["sectorsize"], path.stat().st_size, slices)


def refused(path: Path, words: str) -> None:
    with pytest.raises(PiimgError, match=words) as caught:
        boot_and_root(read_table(path))
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_reads_what_sfdisk_wrote(image: Path) -> None:
    write_table(image, RASPBERRY_PI_OS, "0a0b0c0d")
    table = read_table(image)
    assert table == judged(image)
    assert table.disk_id == "0a0b0c0d"
    assert boot_and_root(table) == (
        Slice(1, 16384 * 512, 32768 * 512, 0x0C),
        Slice(2, 49152 * 512, 40960 * 512, 0x83),
    )


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_sfdisk_on_any_layout(image: Path, seed: int) -> None:
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(1, 64 * 2048), 8))
    slices = [
        f"start={start},size={end - start},type={chance.choice(['c', 'b', '83', '82', '7', 'a5'])}\n"
        for start, end in zip(cuts[::2], cuts[1::2], strict=True)
    ]
    write_table(image, "".join(slices[: chance.randint(1, 4)]), f"{chance.getrandbits(32):08x}")
    assert read_table(image) == judged(image)


def test_a_card_may_have_a_data_partition_after_root(image: Path) -> None:
    two = boot_and_root(read_table_of(image, RASPBERRY_PI_OS))
    table = read_table_of(image, f"{RASPBERRY_PI_OS}start=98304,size=2048,type=83\n")
    assert boot_and_root(table, with_data=True) == two
    with pytest.raises(PiimgError, match="3 partitions"):
        boot_and_root(table)
    for other in ("start=98304,size=2048,type=82", "start=2048,size=2048,type=83"):
        with pytest.raises(PiimgError, match="3 partitions"):
            boot_and_root(read_table_of(image, f"{RASPBERRY_PI_OS}{other}\n"), with_data=True)


def read_table_of(image: Path, slices: str) -> Table:
    write_table(image, slices)
    return read_table(image)


def test_a_boot_partition_of_type_0b_is_fine(image: Path) -> None:
    write_table(image, RASPBERRY_PI_OS.replace("type=c", "type=b"))
    assert boot_and_root(read_table(image))[0].type == 0x0B


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ("", "0 partitions"),
        ("start=16384,size=32768,type=c\n", "1 partition instead"),
        (RASPBERRY_PI_OS + "start=100000,size=8,type=83\n", "3 partitions"),
        (RASPBERRY_PI_OS.replace("type=c", "type=83"), "partition 1 is of type 83, not FAT"),
        (RASPBERRY_PI_OS.replace("type=83", "type=82"), "partition 2 is of type 82, not Linux"),
        (RASPBERRY_PI_OS.replace("type=83", "type=5"), "extended"),
        ("start=49152,size=4096,type=c\nstart=16384,size=4096,type=83\n", "is not before the root"),
    ],
)
def test_another_layout_is_refused(image: Path, slices: str, words: str) -> None:
    write_table(image, slices)
    refused(image, words)


def test_a_gpt_is_refused(image: Path) -> None:
    write_table(image, "start=16384,size=32768\nstart=49152,size=4096\n", label="gpt")
    refused(image, "GPT")


def test_an_image_cut_short_is_refused(image: Path) -> None:
    write_table(image, RASPBERRY_PI_OS)
    with image.open("r+b") as stream:
        stream.truncate((49152 + 40960) * 512 - 1)
    refused(image, "cut short: partition 2 ends 1 bytes behind")


def test_overlapping_partitions_are_refused(image: Path) -> None:
    write_table(image, RASPBERRY_PI_OS)
    put(image, 446 + 16 + 8, struct.pack("<I", 40000))
    refused(image, "(?i)overlapping")


def test_no_table_is_refused(image: Path, tmp_path: Path) -> None:
    refused(image, "has no partition table")
    empty = tmp_path / "empty"
    empty.touch()
    refused(empty, "has no partition table")
    run(["mkfs.vfat", "-F", "16", "-C", tmp_path / "floppy", "16384"])
    refused(tmp_path / "floppy", "has no MBR partition table")


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "cannot read .*No such file")
    refused(tmp_path, "neither a file nor a block device")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a file nor a block device")
    refused(Path("/dev/null"), "neither a file nor a block device")


def opened_for_writing(path: Path, action: Callable[[], object]) -> bool:
    """Whether ``action`` opened ``path`` for writing, as inotify saw it (in Python or in C)."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(watch, bytes(path), 0x08) >= 0  # IN_CLOSE_WRITE
        action()
        try:
            return bool(os.read(watch, 4096))
        except BlockingIOError:
            return False
    finally:
        os.close(watch)


@needs_root
def test_a_card_is_read_and_never_opened_for_writing(image: Path) -> None:
    write_table(image, RASPBERRY_PI_OS)
    card = Path(run(["losetup", "--find", "--show", image]).stdout.decode().strip())
    try:
        assert read_table(card) == read_table(image)
        assert not opened_for_writing(card, lambda: read_table(card))
        assert not opened_for_writing(image, lambda: read_table(image))
        assert opened_for_writing(card, lambda: parted.newDisk(parted.getDevice(str(card))))
    finally:
        run(["losetup", "--detach", card])


def test_grow_keeps_all_but_the_end_of_root(tmp_path: Path) -> None:
    made = make_image(tmp_path / "node.img", disk_id="deadbeef")
    put(made.path, 0, bytes(range(1, 200)))
    before = made.path.read_bytes()
    size = len(before) + 5 * MIB + 4096
    grow_root(made.path, size)
    table = read_table(made.path)
    boot, root = boot_and_root(table)
    assert table == judged(made.path)
    assert (table.disk_id, table.size) == ("deadbeef", size)
    assert (boot.start, boot.size, boot.type) == (made.boot_at, made.boot_size, 0x0C)
    assert (root.start, root.end, root.type) == (made.root_at, size, 0x83)
    after = made.path.read_bytes()
    assert after[:446] == before[:446]
    assert after[512 : len(before)] == before[512:]
    assert after[len(before) :] == bytes(size - len(before))
    run(["e2fsck", "-fn", made.root])


def test_grow_keeps_the_disk_id_where_there_is_no_boot_code(tmp_path: Path) -> None:
    made = make_image(tmp_path / "node.img", disk_id="00000000")
    grow_root(made.path, made.path.stat().st_size + MIB)
    assert read_table(made.path).disk_id == "00000000"
    assert made.path.read_bytes()[:446] == bytes(446)


def test_grow_refuses_what_cannot_be(tmp_path: Path) -> None:
    made = make_image(tmp_path / "node.img")
    before = made.path.read_bytes()
    for size, words in ((len(before) - 512, "shrink"), (3 << 40, "cannot be used")):
        with pytest.raises(PiimgError, match=words):
            grow_root(made.path, size)
    assert made.path.read_bytes() == before
    grow_root(made.path, len(before))
    assert judged(made.path).size == len(before)


def test_threads_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    images = [tmp_path / f"{number}.img" for number in range(8)]
    for number, path in enumerate(images):
        with path.open("wb") as stream:
            stream.truncate(64 * MIB)
        write_table(path, RASPBERRY_PI_OS, f"0000000{number}")
    with ThreadPoolExecutor(8) as pool:
        ids = [table.disk_id for table in pool.map(read_table, images * 25)]
    assert ids == [f"0000000{number}" for number in range(8)] * 25


sectors = st.one_of(st.sampled_from([0, 1, 2048, 8192, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))
entries = st.builds(
    lambda flag, kind, start, size: bytes([flag, 1, 2, 3, kind, 1, 2, 3]) + struct.pack("<II", start, size),
    st.sampled_from([0, 0x80, 7]),
    st.one_of(st.sampled_from([0, 0x0C, 0x83, 0x05, 0xEE]), st.integers(0, 255)),
    sectors,
    sectors,
)
mbrs = st.builds(
    lambda code, four: code + b"".join(four) + b"\x55\xaa",
    st.one_of(st.just(bytes(446)), st.binary(min_size=446, max_size=446)),
    st.lists(entries, min_size=4, max_size=4),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mbrs, st.sampled_from([512, 4096, MIB, 3 << 30]), st.booleans())
def test_any_mbr_is_read_as_it_stands_or_refused(tmp_path: Path, mbr: bytes, size: int, gpt: bool) -> None:
    path = tmp_path / "any.img"
    path.write_bytes(mbr + b"EFI PART" + random.Random(0).randbytes(84) if gpt else mbr)
    os.truncate(path, size)
    try:
        table = read_table(path)
    except PiimgError:
        return
    assert table.disk_id == mbr[440:444][::-1].hex()
    for one in table.slices:
        entry = mbr[446 + 16 * (one.number - 1) :][:16]
        assert (one.start // 512, one.size // 512) == struct.unpack("<II", entry[8:])
        assert one.type == entry[4]
    for earlier, later in zip(
        sorted(table.slices, key=lambda one: one.start),
        sorted(table.slices, key=lambda one: one.start)[1:],
        strict=False,
    ):
        assert earlier.end <= later.start


def test_a_gpt_that_kills_libparted_is_survived(tmp_path: Path) -> None:
    """libparted 3.5 dies of a GPT header in a tiny image: so each is asked in a process of its own."""
    path = tmp_path / "tiny.img"
    entry = struct.pack("<8BII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, 2**32 - 1)
    path.write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa" + b"EFI PART" + bytes(504))
    parted_alone = "import parted; parted.newDisk(parted.getDevice({!r}))"
    ours = "import pathlib, imagebuilder.image.partitions as p; p.read_table(pathlib.Path({!r}))"
    ends = [
        subprocess.run([sys.executable, "-c", script.format(str(path))], capture_output=True, check=False)
        for script in (parted_alone, ours)
    ]
    assert ends[0].returncode in (1, -signal.SIGSEGV)
    assert ends[1].returncode == 1
    assert b"has a GPT" in ends[1].stderr


places = st.integers(0, 6)


@given(
    st.builds(Slice, st.just(1), places, places, st.sampled_from([0x0B, 0x0C, 0x83])),
    st.builds(Slice, st.just(2), places, places, st.sampled_from([0x83, 0x82])),
    st.lists(st.builds(Slice, st.just(3), places, places, st.just(0x83)), max_size=1),
    st.integers(0, 12),
)
def test_a_layout_is_accepted_exactly_when_it_is_sound(
    boot: Slice, root: Slice, more: list[Slice], size: int
) -> None:
    sound = not more and boot.type != 0x83 and root.type == 0x83 and boot.end <= root.start
    table = Table("00000000", 512, size, (boot, root, *more))
    if sound and boot.end <= size and root.end <= size:
        assert boot_and_root(table) == (boot, root)
    else:
        with pytest.raises(PiimgError):
            boot_and_root(table)
