"""How much memory it takes to read cards and images that were made to be too large."""

import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.image.digest import walk_boot
from imagebuilder.system.process import run
from tests.support.cluster import command

MIB = 1 << 20
HUGE = 800 * MIB  # of zeros, sparse
BOOT_AT, BOOT_SIZE = 4 * MIB, 1000 * MIB
ROOT_AT, ROOT_SIZE = BOOT_AT + BOOT_SIZE, 16 * MIB
CLUSTER = 8192  # bytes; with larger ones, mtools before 4.0.48 take it for no FAT32
ALLOWED = 200 * MIB  # of memory, by piimg and each program that it starts

SMALL = ("cmdline.txt", "issue.txt", "config.txt", "piimg.json", "piimg-firstboot.json")
"""Files of the boot partition that are to be small."""

MEASURED = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
raise SystemExit(status)
"""
"""A small process of its own: what a child is said to have taken is never less than what its parent has."""


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card laid out like Raspberry Pi OS, with little files only."""
    tree = tmp_path / "tree"
    for folder in ("etc", "var/lib/dpkg", "var/lib/piimg/firstboot"):
        (tree / folder).mkdir(parents=True)
    (tree / "etc/os-release").write_text('PRETTY_NAME="Debian 12"\nVERSION_CODENAME=bookworm\n')
    (tree / "var/lib/dpkg/arch").write_text("arm64\n")
    (tree / "var/lib/piimg/firstboot/.summary").write_text("{}")
    image, root = tmp_path / "card.img", tmp_path / "root"
    for file, size in ((image, ROOT_AT + ROOT_SIZE), (root, ROOT_SIZE)):
        with file.open("wb") as stream:
            stream.truncate(size)
    sectors, kib = str(CLUSTER // 512), str(BOOT_SIZE // 1024)
    run(["mkfs.fat", "-F", "32", "-s", sectors, "--offset", str(BOOT_AT // 512), image, kib])
    for name in SMALL:
        run(["mcopy", "-i", f"{image}@@{BOOT_AT}", "-", f"::{name}"], data=b"{}\n")
    run(["mkfs.ext4", "-q", "-d", tree, root])
    run(["dd", f"if={root}", f"of={image}", "bs=1M", f"seek={ROOT_AT // MIB}", "conv=notrunc,sparse"])
    table = b"".join(
        struct.pack("<4xB3xII", kind, start // 512, size // 512)
        for kind, start, size in ((0x0C, BOOT_AT, BOOT_SIZE), (0x83, ROOT_AT, ROOT_SIZE))
    )
    with image.open("r+b") as stream:
        stream.seek(440)
        stream.write(b"\x01\x02\x03\x04\0\0" + table + bytes(32) + b"\x55\xaa")
    return image


def enlarge_on_boot(image: Path, name: str) -> None:
    """Make a file of the boot partition ``HUGE``, as its directory and both FATs say.

    Its clusters are holes.
    """
    shown = run(["mshowfat", "-i", f"{image}@@{BOOT_AT}", f"::{name}"]).stdout.decode()
    first = int(re.findall(r"<(\d+)", shown)[0])
    with image.open("r+b") as stream:
        stream.seek(BOOT_AT)
        boot = stream.read(512)
        reserved, copies = struct.unpack_from("<HB", boot, 14)
        table, root = struct.unpack_from("<I4xI", boot, 36)
        data = BOOT_AT + (reserved + copies * table) * 512
        # Behind all files there are, a chain without a gap.
        start, count = 100, HUGE // (CLUSTER)
        chain = struct.pack(f"<{count}I", *range(start + 1, start + count), 0x0FFFFFFF)
        for copy in range(copies):
            stream.seek(BOOT_AT + (reserved + copy * table) * 512 + 4 * start)
            stream.write(chain)
        stream.seek(data + (root - 2) * CLUSTER)
        folder = bytearray(stream.read(CLUSTER))
        for at in range(0, len(folder), 32):
            low, size = struct.unpack_from("<HI", folder, at + 26)
            if folder[at + 11] != 0x0F and low == first and size == 3:
                struct.pack_into("<HI", folder, at + 26, start, HUGE)
                break
        else:
            raise AssertionError(f"{name} is not there")
        stream.seek(data + (root - 2) * CLUSTER)
        stream.write(folder)


def enlarge_on_root(image: Path, path: str) -> None:
    """Make a file of the root partition ``HUGE``: all behind its first block is a hole."""
    run(["debugfs", "-w", "-R", f"sif {path} size {HUGE}", f"{image}?offset={ROOT_AT}"])


def peak(*argv: str | Path) -> tuple[str, int]:
    """What a command says, and the bytes of memory that it took, or the largest program that it started."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said, _, taken = done.stdout.rpartition("peak ")
    return said, int(taken)


@pytest.mark.parametrize("names", [*((name,) for name in SMALL[:2]), SMALL], ids=",".join)
def test_huge_files_on_the_boot_partition(card: Path, names: tuple[str, ...]) -> None:
    for name in names:
        enlarge_on_boot(card, name)
    listed = run(["mdir", "-i", f"{card}@@{BOOT_AT}", *(f"::{name}" for name in names)]).stdout.decode()
    assert listed.count(str(HUGE)) == len(names)
    said, taken = peak(*command("inspect", card))
    assert "partition 2: type 83" in said
    assert taken < ALLOWED


def test_huge_files_on_the_root_partition(card: Path) -> None:
    for path in ("/etc/os-release", "/var/lib/dpkg/arch", "/var/lib/piimg/firstboot/.summary"):
        enlarge_on_root(card, path)
    said, taken = peak(*command("inspect", card))
    assert "partition 2: type 83" in said
    assert taken < ALLOWED


def test_files_that_share_clusters_do_not_fill_the_disk(card: Path, tmp_path: Path) -> None:
    for name in SMALL[:2]:
        enlarge_on_boot(card, name)
    folder = tmp_path / "copied"
    folder.mkdir()
    with pytest.raises(PiimgError, match="larger than the image"):
        list(walk_boot(card, BOOT_AT, folder))
    assert not list(folder.iterdir())


READERS = {
    "build": "from imagebuilder.image.tree import BootTree; BootTree(card, {boot}).read('/config.txt')",
    "boot": (
        "from imagebuilder.boot.firmware import command_line; from imagebuilder.image.tree import BootTree; "
        "command_line(BootTree(card, {boot}))"
    ),
    "cards": "from imagebuilder.device.identity import carried; carried(card)",
    "verify": "from imagebuilder.card.boot_state import state_of; state_of(card, card, '', '')",
    "verify of a booted card": (
        "from imagebuilder.image.drift import ExpectedEntry, compare; "
        "from imagebuilder.model import Kind, Partition; "
        "kinds = {{'/config.txt': Kind.LINES, '/cmdline.txt': Kind.WORDS, '/piimg.json': Kind.FILE}}; "
        "rest = ('0644', 0, 0, 'base', False, '', 3, '', ('x',)); "
        "wanted = [ExpectedEntry(Partition.BOOT, path, kind, *rest) for path, kind in kinds.items()]; "
        "compare(card, card, wanted)"
    ),
    "station": "from imagebuilder.device.node_card import foreign_content; foreign_content(card, 'node', ())",
}


@pytest.mark.parametrize("use", READERS)
def test_each_use_is_bounded(card: Path, use: str) -> None:
    for name in SMALL:
        enlarge_on_boot(card, name)
    code = f"import sys; from pathlib import Path; card = Path(sys.argv[1]); {READERS[use]}"
    code = f"""
from imagebuilder.errors import PiimgError
try:
    exec({code.format(boot=BOOT_AT)!r})
except PiimgError as error:
    print(error.message)
"""
    _, taken = peak(sys.executable, "-c", code, card)
    assert taken < ALLOWED


def image_of_one_partition(path: Path, kind: int, size: int) -> Path:
    """An image of a partition of this type and size, all holes."""
    with path.open("wb") as stream:
        stream.truncate(BOOT_AT + size)
        stream.seek(446)
        stream.write(struct.pack("<4xB3xII", kind, BOOT_AT // 512, size // 512) + bytes(48) + b"\x55\xaa")
    return path


def fat_with_small_clusters(path: Path) -> Path:
    """A FAT32 of 256 GiB in clusters of 512 bytes: its table alone has 2 GiB."""
    sectors = (256 << 30) // 512
    image = image_of_one_partition(path, 0x0C, sectors * 512)
    boot = bytearray(512)
    struct.pack_into("<HBHBHH", boot, 11, 512, 1, 32, 2, 0, 0)
    struct.pack_into("<II", boot, 32, sectors, sectors // 128)
    boot[510:] = b"\x55\xaa"
    with image.open("r+b") as stream:
        stream.seek(BOOT_AT)
        stream.write(boot)
    return image


def ext4_with_nothing_in_it(path: Path) -> Path:
    """An ext4 of 160 GiB, with 42 million free blocks."""
    image = image_of_one_partition(path, 0x83, 160 << 30)
    options = f"offset={BOOT_AT},lazy_itable_init=1,nodiscard"
    blocks = str((160 << 30) // 4096)
    run(["mkfs.ext4", "-q", "-b", "4096", "-N", "2000", "-O", "^has_journal", "-E", options, image, blocks])
    return image


@pytest.mark.parametrize("make", [fat_with_small_clusters, ext4_with_nothing_in_it])
def test_what_is_in_use_of_a_huge_file_system(make: Callable[[Path], Path], tmp_path: Path) -> None:
    image = make(tmp_path / "huge.img")
    code = "import sys; from pathlib import Path; from imagebuilder.image.allocation import used_ranges; "
    total = "sum(end - start for start, end in used_ranges(Path(sys.argv[1])))"
    said, taken = peak(sys.executable, "-c", f"{code}print({total})", image)
    size = image.stat().st_size
    assert int(said) == size if make is fat_with_small_clusters else int(said) < size // 500
    assert taken < ALLOWED
