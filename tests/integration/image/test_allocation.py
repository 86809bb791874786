"""The blocks in use, judged by debugfs, fsck.fat and mtools, and by what a card that held 0xFF gets."""

import io
import itertools
import os
import random
import re
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.errors import PiimgError
from imagebuilder.image.allocation import GRAIN, ext4_used, fat_used, joined, left_out, used_ranges
from imagebuilder.system.process import run
from tests.integration.image.making import (
    SECTOR,
    Made,
    cut_out,
    debugfs,
    fill_boot,
    make_image,
    mounted_root,
    needs_root,
    put,
    write_table,
)

FATS = {
    "fat16": {"boot": 8192, "fat": ("-F", "16", "-s", "1")},
    "fat16-large-clusters": {"boot": 40960, "fat": ("-F", "16", "-s", "8", "-f", "1")},
    "fat32": {"boot": 81920, "fat": ("-F", "32", "-s", "1")},
    "fat16-4k-sectors": {"boot": 40960, "fat": ("-F", "16", "-S", "4096", "-s", "1")},
}
EXTS = {
    "1k": ("-b", "1024"),
    "2k-many-groups": ("-b", "2048", "-g", "1024"),
    "raspberry-pi-os": ("-b", "4096", "-O", "^64bit,^huge_file"),
    "ext2": ("-b", "1024", "-t", "ext2"),
    "meta_bg": ("-b", "1024", "-O", "meta_bg,^resize_inode"),
    "no-flex": ("-b", "1024", "-O", "^flex_bg,^metadata_csum,sparse_super2"),
}


def blocks(spans: Iterable[tuple[int, int]]) -> set[int]:
    """The blocks of GRAIN bytes that the spans touch."""
    return {block for start, end in spans if start < end for block in range(start // GRAIN, -(-end // GRAIN))}


def fat_by_judges(made: Made, folder: Path) -> set[int]:
    """The blocks that fsck.fat and mshowfat call used on the boot partition."""
    apart = cut_out(made.path, made.boot_at, made.boot_size, folder / "boot.fat")
    said = run(["fsck.fat", "-n", "-v", apart]).stdout.decode()
    data = int(re.findall(r"Data area starts at byte (\d+)", said)[0])
    cluster = int(re.findall(r"(\d+) bytes per cluster", said)[0])
    count, of = map(int, re.findall(r", (\d+)/(\d+) clusters", said)[0])
    names = run(["mdir", "-/", "-a", "-b", "-i", made.boot, "::"]).stdout.decode().splitlines()
    chains = run(["mshowfat", "-i", made.boot, "::/", *(name.rstrip("/") for name in names)]).stdout.decode()
    used = set()
    for line in chains.splitlines():
        for first, last in re.findall(r"<(\d+)(?:-(\d+))?>", line):
            used |= set(range(int(first) - 2, int(last or first) - 1))
    used.discard(-2)  # how mshowfat writes a file without clusters, and FAT16's root directory
    assert len(used) == count
    at = made.boot_at
    spans = [(at, at + data), (at + data + of * cluster, at + made.boot_size)]
    spans += [(at + data + one * cluster, at + data + (one + 1) * cluster) for one in used]
    return blocks(spans)


def ext4_by_judge(made: Made) -> set[int]:
    """The blocks that debugfs calls used on the root partition."""
    head = made.dumped()
    size, count = (
        int(re.findall(rf"^{name}: +(\d+)", head, re.M)[0]) for name in ("Block size", "Block count")
    )
    said = debugfs(made, f"testb 1 {count - 1}")
    used = {0} | {int(one) for one in re.findall(r"^Block (\d+) marked in use", said, re.M)}
    assert len(re.findall(r"^Block \d+ ", said, re.M)) == count - 1
    at = made.root_at
    spans = [(at + one * size, at + (one + 1) * size) for one in used]
    return blocks([*spans, (at + count * size, at + made.root_size)])


def outside(made: Made) -> set[int]:
    """The blocks that lie at least in part outside the partitions."""
    boot_end, root_end = made.boot_at + made.boot_size, made.root_at + made.root_size
    spans = [(0, made.boot_at), (boot_end, made.root_at), (root_end, made.path.stat().st_size)]
    return blocks(spans)


def random_files(chance: random.Random, largest: int) -> dict[str, bytes]:
    folders = ["", "dir 0/", "dir 1/", ""]
    names = [f"{folders[number % 4]}file número {number}.bin" for number in range(chance.randint(1, 14))]
    return {name: chance.randbytes(chance.choice([0, 1, 511, 4096, largest // 3, largest])) for name in names}


def fill(made: Made, folder: Path, chance: random.Random) -> None:
    """Write random files to both partitions, delete some, write more: so free space is in pieces."""
    for turn in ("first", "second"):
        files = {f"{turn} {name}": content for name, content in random_files(chance, 60_000).items()}
        fill_boot(made, folder / turn, files)
        commands = [f'mkdir "{turn}"']
        for number, name in enumerate(files):
            commands.append(f'write "{folder / turn / name}" "/{turn}/{number}"')
        gone = [name for name in list(files)[1:] if chance.random() < 0.5]  # mdir fails on an empty disk
        commands += [f'rm "/{turn}/{number}"' for number, name in enumerate(files) if name in gone]
        debugfs(made, *commands)
        if gone:
            run(["mdel", "-i", made.boot, *(f"::/{name}" for name in gone)])


def check_shape(used: list[tuple[int, int]], size: int) -> None:
    assert all(start % GRAIN == 0 and (end % GRAIN == 0 or end == size) for start, end in used)
    assert all(start < end for start, end in used)
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(used))


layouts = st.fixed_dictionaries(
    {
        "fat": st.sampled_from(sorted(FATS)),
        "ext": st.sampled_from(sorted(EXTS)),
        "boot_at": st.sampled_from([2048, 2049, 63, 8191]),
        "gap": st.sampled_from([0, 1, 2047]),
        "extra": st.integers(0, 40),
        "tail": st.sampled_from([0, 1, 511, 70_000]),
        "seed": st.integers(0, 2**32),
    }
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(layouts)
def test_the_map_covers_exactly_what_the_judges_call_used(
    tmp_path_factory: pytest.TempPathFactory, layout: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("usage")
    try:
        fat = FATS[str(layout["fat"])]
        made = make_image(
            folder / "any.img",
            boot_at=int(str(layout["boot_at"])),
            boot=int(str(fat["boot"])) + int(str(layout["extra"])),
            gap=int(str(layout["gap"])),
            root=32768 + int(str(layout["extra"])),
            tail=int(str(layout["tail"])),
            fat=tuple(fat["fat"]),  # type: ignore[arg-type]
            ext=EXTS[str(layout["ext"])],
        )
        fill(made, folder, random.Random(int(str(layout["seed"]))))
        used = used_ranges(made.path)
        check_shape(used, made.path.stat().st_size)
        assert blocks(used) == fat_by_judges(made, folder) | ext4_by_judge(made) | outside(made)
        check_card(made, used, folder)
    finally:
        shutil.rmtree(folder)


def check_card(made: Made, used: list[tuple[int, int]], folder: Path) -> None:
    """A card full of 0xFF that is given the ranges in use, and no more, is clean and holds every file."""
    card = Made(folder / "card", made.boot_at, made.boot_size, made.root_at, made.root_size)
    with made.path.open("rb") as source, card.path.open("wb") as target:
        size = made.path.stat().st_size
        for position in range(0, size, 1 << 20):
            target.write(b"\xff" * min(1 << 20, size - position))
        for start, end in used:
            source.seek(start)
            target.seek(start)
            target.write(source.read(end - start))
    run(["e2fsck", "-fn", card.root])
    run(["fsck.fat", "-n", cut_out(card.path, card.boot_at, card.boot_size, folder / "card.fat")])
    assert contents(card, folder / "from-card") == contents(made, folder / "from-image")


def contents(made: Made, folder: Path) -> dict[str, bytes]:
    """Every file of both partitions, as mcopy and debugfs bring them out."""
    (folder / "boot").mkdir(parents=True)
    (folder / "root").mkdir()
    run(["mcopy", "-s", "-n", "-i", made.boot, "::", folder / "boot"])
    debugfs(made, f'rdump / "{folder / "root"}"')
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@needs_root
def test_zeros_that_are_used_reach_a_card_that_held_other_data(tmp_path: Path) -> None:
    """As the kernel writes them; the image's file holds holes there, as after a sparse copy."""
    made = make_image(tmp_path / "base.img", root=65536, ext=EXTS["raspberry-pi-os"])
    fill_boot(made, tmp_path / "boot", {"zeros.bin": bytes(300_000), "config.txt": b"arm_64bit=1\n"})
    with mounted_root(made, tmp_path / "mnt") as root:
        (root / "zeros").write_bytes(bytes(3_000_000))
        (root / "random").write_bytes(os.urandom(3_000_000))
        for number in range(200):
            (root / f"small-{number}").write_bytes(os.urandom(number * 37))
            if number % 3:
                (root / f"small-{number}").unlink()
        assert (made.root_at, made.root_at + made.root_size) in ext4_used(
            made.path, made.root_at, made.root_size
        )
    run(["fallocate", "--dig-holes", made.path])
    used = used_ranges(made.path)
    assert blocks(used) == fat_by_judges(made, tmp_path) | ext4_by_judge(made) | outside(made)
    assert sum(end - start for start, end in used) < made.path.stat().st_size // 2
    check_card(made, used, tmp_path)


def test_an_image_whose_name_looks_like_an_option(tmp_path: Path) -> None:
    made = make_image(tmp_path / "plain.img")
    expected = used_ranges(made.path)
    assert made.path.rename(tmp_path / "node?offset=1 @@2.img")
    assert used_ranges(tmp_path / "node?offset=1 @@2.img") == expected


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    with path.open("rb") as stream:
        stream.seek(offset)
        (old,) = stream.read(1)
    put(path, offset, bytes([old ^ mask]))


def test_a_root_that_cannot_be_trusted_is_used_as_a_whole(tmp_path: Path) -> None:
    made = make_image(tmp_path / "good.img")
    whole = [(made.root_at, made.root_at + made.root_size)]
    superblock = made.root_at + 1024
    assert ext4_used(made.path, made.root_at, made.root_size) != whole
    assert ext4_used(made.path, made.root_at, made.root_size - 1024) == [
        (made.root_at, made.root_at + made.root_size - 1024)
    ]  # larger than its partition
    assert ext4_used(made.path, made.root_at + 512, 4096) == [(made.root_at + 512, made.root_at + 4608)]

    def changed(*commands: str, at: int = -1) -> list[tuple[int, int]]:
        other = Made(tmp_path / "other.img", made.boot_at, made.boot_size, made.root_at, made.root_size)
        shutil.copyfile(made.path, other.path)
        if commands:
            debugfs(other, *commands)
        if at >= 0:
            flip(other.path, at)
        return ext4_used(other.path, other.root_at, other.root_size)

    said = made.dumped()
    bitmap = int(re.findall(r"Block bitmap at (\d+)", said)[0]) * 1024
    assert changed() != whole
    assert changed("feature needs_recovery") == whole
    assert changed("ssv state 0") == whole
    assert changed("ssv state 3") == whole
    assert changed("ssv free_blocks_count 17") == whole
    assert changed(at=made.root_at + bitmap) == whole
    assert changed(at=superblock + 0x38) == whole  # the magic number
    assert changed(at=superblock + 0x18) == whole  # the block size
    clusters = make_image(tmp_path / "clusters.img", ext=("-b", "1024", "-O", "bigalloc", "-C", "16384"))
    assert ext4_used(clusters.path, clusters.root_at, clusters.root_size) == [
        (clusters.root_at, clusters.root_at + clusters.root_size)
    ]


@pytest.mark.parametrize(
    "options", [(), ("-O", "^metadata_csum,^uninit_bg"), ("-O", "meta_bg,^resize_inode")]
)
def test_a_large_root_with_a_few_files(tmp_path: Path, options: tuple[str, ...]) -> None:
    """256 GB, nearly all in groups whose bitmaps were never written. dumpe2fs names the free blocks."""
    image, size = tmp_path / "large.ext4", 1 << 38
    image.touch()
    os.truncate(image, size)
    (tmp_path / "files").mkdir()
    for number in range(50):
        (tmp_path / "files" / str(number)).write_bytes(b"content" * 1000 * number)
    run(["mkfs.ext4", "-q", *options, "-i", "67108864", "-d", tmp_path / "files", image])
    used = ext4_used(image, 0, size)
    free = re.findall(r"^  Free blocks: (.+)$", run(["dumpe2fs", image]).stdout.decode(), re.MULTILINE)
    numbers = [one.split("-") for line in free for one in line.split(", ")]
    spans = [(int(each[0]) * 4096, (int(each[-1]) + 1) * 4096) for each in numbers]
    assert sum(end - start for start, end in used) < 8 << 30
    assert sum(end - start for start, end in [*used, *spans]) == size
    assert sorted([*used, *joined(spans)])[0][0] == 0
    assert list(joined([*used, *spans])) == [(0, size)]


def test_counts_of_groups_that_are_wrong(tmp_path: Path) -> None:
    """Each number of a group in turn; the checksum of its descriptor is right, as far as debugfs can tell."""
    made = make_image(tmp_path / "good.img", root=65536, ext=("-b", "1024", "-g", "8192"))
    whole = [(made.root_at, made.root_at + made.root_size)]
    used = ext4_used(made.path, made.root_at, made.root_size)
    assert used != whole
    for group, name, number in itertools.product(
        range(4), ("block_bitmap", "inode_table", "free_blocks_count", "flags"), (0, 3, 17, 2**31)
    ):
        other = Made(tmp_path / "other.img", made.boot_at, made.boot_size, made.root_at, made.root_size)
        shutil.copyfile(made.path, other.path)
        debugfs(other, f"set_block_group {group} {name} {number}", f"set_block_group {group} checksum calc")
        found = ext4_used(other.path, other.root_at, other.root_size)
        missing = list(left_out(used, found))
        assert found == whole or not missing, (group, name, number)


def fat_image(tmp_path: Path, *options: str, sectors: int = 16384) -> bytes:
    path = tmp_path / "one.fat"
    path.write_bytes(bytes(sectors * SECTOR))
    run(["mkfs.vfat", *options, path])
    return path.read_bytes()


def test_a_boot_that_cannot_be_trusted_is_used_as_a_whole(tmp_path: Path) -> None:
    good = fat_image(tmp_path, "-F", "16", "-s", "1")
    whole = [(0, len(good))]

    def used(image: bytes, size: int = len(good)) -> list[tuple[int, int]]:
        return fat_used(io.BytesIO(image), 0, size)

    def with_bytes(at: int, data: bytes) -> bytes:
        return good[:at] + data + good[at + len(data) :]

    assert used(good) != whole
    assert used(good, len(good) - 512) == [(0, len(good) - 512)]  # larger than its partition
    assert used(good[:1000], 1000) == [(0, 1000)]
    assert used(with_bytes(512 * 4 + 40, b"\x01")) == whole  # the FATs differ
    assert used(with_bytes(510, b"\x00\x00")) == whole
    assert used(with_bytes(11, struct.pack("<H", 500))) == whole
    assert used(with_bytes(13, b"\x03")) == whole  # sectors in a cluster
    assert used(with_bytes(14, b"\x00\x00")) == whole  # reserved sectors
    assert used(with_bytes(16, b"\x00")) == whole  # count of FATs
    assert used(with_bytes(17, b"\x00\x00")) == whole  # FAT16 without a root directory
    assert used(with_bytes(22, b"\x01\x00")) == whole  # a FAT too short for the clusters
    assert used(bytes(len(good))) == whole
    twelve = fat_image(tmp_path, "-F", "12")
    assert used(twelve) == [(0, len(twelve))]


def test_a_bad_cluster_is_used(tmp_path: Path) -> None:
    wide = bytearray(fat_image(tmp_path, "-F", "32", "-s", "1", sectors=81920))
    (reserved,), (length,) = struct.unpack_from("<H", wide, 14), struct.unpack_from("<I", wide, 36)
    data = (reserved + 2 * length) * SECTOR
    for copy in range(2):
        at = (reserved + copy * length) * SECTOR
        struct.pack_into("<I", wide, at + 4 * 1000, 0x0FFFFFF7)
        struct.pack_into("<I", wide, at + 4 * 2000, 0xF0000000)  # free: the top bits do not count
    assert fat_used(io.BytesIO(wide), 0, len(wide)) == [
        (0, data + SECTOR),
        (data + 998 * SECTOR, data + 999 * SECTOR),
    ]


def test_what_is_not_understood_is_used_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "any.img"
    size = 16 << 20
    for slices, label in (
        ("", "dos"),
        ("start=2048,size=4096,type=7\nstart=8192,size=4096,type=82\n", "dos"),
        ("start=2048,size=4096,type=c\nstart=8192,size=4096,type=83\n", "dos"),  # no file systems in them
        (
            "start=2048,size=4096,type=83\nstart=8192,size=16384,type=5\nstart=10240,size=2048,type=83\n",
            "dos",
        ),
        ("start=2048,size=4096\n", "gpt"),
    ):
        path.write_bytes(bytes(size))
        write_table(path, slices, label=label)
        assert used_ranges(path) == [(0, size)]
    path.write_bytes(b"no table at all")
    assert used_ranges(path) == [(0, 15)]
    path.write_bytes(b"")
    assert used_ranges(path) == []


def test_an_image_cut_short_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    made = make_image(tmp_path / "short.img")
    os.truncate(made.path, made.root_at + made.root_size - 5000)
    used = used_ranges(made.path)
    assert used[-1][0] <= made.root_at
    assert used[-1][1] == made.path.stat().st_size


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, Path("/dev/null")):
        with pytest.raises(PiimgError):
            used_ranges(path)


places = st.one_of(st.integers(0, 511), st.integers(512, 40_000))
changes = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["16", "32"]), changes, st.integers(0, 20000))
def test_a_damaged_fat_never_breaks_the_parser(
    fats: dict[str, bytes], bits: str, damage: list[tuple[int, int]], missing: int
) -> None:
    image = bytearray(fats[bits])
    for at, value in damage:
        image[at] = value
    size = max(0, len(image) - missing)
    used = fat_used(io.BytesIO(image[:size]), 0, size)
    assert all(0 <= start < end <= size for start, end in used)
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(used))
    assert not size or used[0][0] == 0


@pytest.fixture(scope="module")
def fats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("fats")
    return {
        "16": fat_image(folder, "-F", "16", "-s", "1", sectors=8192),
        "32": fat_image(folder, "-F", "32", "-s", "1", sectors=8192),
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_ext4_never_breaks_the_parser(
    ext4: Made, tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.img"
    shutil.copyfile(ext4.path, path)
    for at, value in damage:
        put(path, ext4.root_at + 1024 + at, bytes([value]))
    used = ext4_used(path, ext4.root_at, ext4.root_size)
    end_of_root = ext4.root_at + ext4.root_size
    assert all(ext4.root_at <= start < end <= end_of_root for start, end in used)
    assert used[0][0] == ext4.root_at


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_image(
        tmp_path_factory.mktemp("ext4") / "one.img", boot=4400, ext=("-b", "1024", "-O", "^metadata_csum")
    )


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_what_is_left_out_is_what_is_not_covered(used: set[int], covered: set[int]) -> None:
    pairs = [list(zip(edges[::2], edges[1::2], strict=False)) for edges in map(sorted, (used, covered))]
    wanted, there, found = (
        [byte for low, high in spans for byte in range(low, high)] for spans in (*pairs, left_out(*pairs))
    )
    assert found == [byte for byte in wanted if byte not in there]
