"""Cards that hold something, and cards that hold nothing, made by the real tools."""

import lzma
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from imagebuilder.device.identity import unfinished_line
from imagebuilder.system.process import run
from tests.integration.card.conftest import MIB
from tests.support.checkout import DEVICES

SIGNATURES = DEVICES / "signatures"
"""The first bytes of what mksquashfs, xorriso, mkfs.ntfs, cryptsetup and pvcreate made, compressed."""


SIZE = 128 * MIB


PART = 4 * MIB  # bytes; where the partition of a card begins


def zeros(tmp_path: Path) -> Path:
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


def on_fat(card: Path, *more: str | Path) -> None:
    """A card with a FAT partition, on which one of the mtools was run."""
    partitioned(card, "c")
    fat(card, PART)
    if more:
        run([more[0], "-i", f"{card}@@{PART}", *more[1:]])


def starts_with(card: Path, data: bytes) -> None:
    card.write_bytes(data)
    os.truncate(card, SIZE)


def ones(card: Path) -> None:
    """A card that was never written to, as some are."""
    card.write_bytes(b"\xff" * (40 * MIB))


def seen_by_windows(card: Path, *files: str) -> None:
    """A FAT partition with what Windows puts there, and these files in the same folder."""
    on_fat(card, "mmd", "::System Volume Information")
    for name in ("WPSettings.dat", "IndexerVolumeGuid", *files):
        target = f"::System Volume Information/{name}"
        run(["mcopy", "-i", f"{card}@@{PART}", "-", target], data=b"x" * 12)


def seen_by_a_mac(card: Path) -> None:
    partitioned(card, "c")
    fat(card, PART, "._.Trashes")
    for folder in (".fseventsd", ".Trashes", ".Spotlight-V100", ".Spotlight-V100/Store-V2"):
        run(["mmd", "-i", f"{card}@@{PART}", f"::{folder}"])
    for file in (
        ".fseventsd/fseventsd-uuid",
        ".fseventsd/0000000000c0ffee",
        ".Spotlight-V100/Store-V2/0.shadow",
    ):
        run(["mcopy", "-i", f"{card}@@{PART}", "-", f"::{file}"], data=b"x" * 5000)


def emptied(card: Path) -> None:
    """A FAT from which all files were deleted: what they held is in its free clusters."""
    partitioned(card, "c")
    fat(card, PART)
    run(["mcopy", "-i", f"{card}@@{PART}", "-", "::a.jpg"], data=os.urandom(3 * MIB))
    run(["mdel", "-i", f"{card}@@{PART}", "::a.jpg"])


def fat16(card: Path) -> None:
    partitioned(card, "6")
    run(["mkfs.vfat", "-F", "16", "-s", "4", "--offset", str(PART // 512), card, str(36 << 10)])


BLANKS: dict[str, Callable[[Path], None]] = {
    "zeros": lambda card: None,
    "ones": ones,
    "a run was cut off": lambda card: starts_with(card, unfinished_line("a", "b") + os.urandom(2 * MIB)),
    "no partitions": partitioned,
    "FAT": on_fat,
    "FAT16": fat16,
    "FAT alone": lambda card: fat(card, 0),
    "FAT with a label": lambda card: on_fat(card, "mlabel", "::CARD"),
    "FAT that Windows saw": seen_by_windows,
    "FAT that a Mac saw": seen_by_a_mac,
    "FAT that Android saw": lambda card: on_fat(card, "mmd", "::LOST.DIR"),
    "FAT with deleted files": emptied,
}


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


def peek(file: Path, offset: int, length: int) -> bytes:
    with file.open("rb") as stream:
        return os.pread(stream.fileno(), length, offset)


def ext4(card: Path, offset: int, size: int = 32 * MIB) -> None:
    """An ext4 file system with a file in it at ``offset``, in no partition."""
    folder = card.parent / "photos"
    folder.mkdir(exist_ok=True)
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff" * 1000)
    run(["mkfs.ext4", "-q", "-E", f"offset={offset}", "-d", folder, card, f"{size >> 10}k"])


def deleted_partitions(card: Path) -> None:
    partitioned(card)
    ext4(card, 16 * MIB)


def beside_an_empty_fat(card: Path) -> None:
    on_fat(card)
    ext4(card, 60 * MIB)


def boot_loader(card: Path) -> None:
    """What U-Boot's SPL for sunxi boards begins with: a jump, then eGON.BT0, at 8 KiB."""
    on_fat(card)
    poke(card, 8 << 10, b"\x16\x00\x00\xeaeGON.BT0" + os.urandom(24 << 10))


def loader_in_the_fat(card: Path) -> None:
    """The same on a card without a partition table: FAT32 has 16 KiB in front of its tables."""
    fat(card, 0)
    poke(card, 8 << 10, b"\x16\x00\x00\xeaeGON.BT0" + os.urandom(4096))


def in_lost_dir(card: Path) -> None:
    on_fat(card, "mmd", "::LOST.DIR")
    run(["mcopy", "-i", f"{card}@@{PART}", "-", "::LOST.DIR/1234"], data=b"recovered")


def fat_places(card: Path) -> tuple[int, int, int]:
    """Where the tables and the clusters of ``fat`` begin, in bytes of the card, and the size of a table."""
    boot = peek(card, PART, 512)
    reserved, copies = struct.unpack_from("<HB", boot, 14)
    (length,) = struct.unpack_from("<I", boot, 36)
    return PART + reserved * 512, PART + (reserved + copies * length) * 512, length * 512


def without_root_folder(card: Path) -> None:
    with_file(card)
    poke(card, fat_places(card)[1], bytes(512))


def without_a_table(card: Path) -> None:
    """Only the copy of the FAT still knows of the file."""
    with_file(card)
    poke(card, fat_places(card)[0] + 12, bytes(4))
    poke(card, fat_places(card)[1], bytes(512))


def smaller_than_its_partition(card: Path) -> None:
    partitioned(card, "c")
    run(["mkfs.vfat", "-F", "16", "-s", "1", "--offset", str(PART // 512), card, str(16 << 10)])
    poke(card, PART + 20 * MIB, b"x" * 512)


def folders_in_a_circle(card: Path) -> None:
    on_fat(card, "mmd", "::.Spotlight-V100")
    run(["mmd", "-i", f"{card}@@{PART}", "::.Spotlight-V100/Store-V2"])
    run(["mmd", "-i", f"{card}@@{PART}", "::.Spotlight-V100/Store-V2/A"])
    *_, clusters, _ = fat_places(card)
    folder = clusters + 2 * 512  # cluster 4; its third entry is the long name of A, or A
    entries = peek(card, folder, 512)
    at = next(at for at in range(64, 512, 32) if entries[at + 11] == 0x10)
    poke(card, folder + at + 26, (4).to_bytes(2, "little"))


def gpt_backup(card: Path) -> None:
    run(["sfdisk", "-q", card], data=b"label: gpt\n,\n")
    poke(card, 0, bytes(MIB))


def made_by(name: str, offset: int) -> Callable[[Path], None]:
    """Put what a tool made at ``offset`` of a card."""
    return lambda card: poke(card, offset, lzma.decompress((SIGNATURES / f"{name}.xz").read_bytes()))


def md_member(card: Path) -> None:
    """A superblock of version 1.0, 8 KiB before the end (linux/raid/md_p.h, mdp_superblock_1)."""
    at = SIZE - (8 << 10)
    block = bytearray(256)
    struct.pack_into("<IIII", block, 0, 0xA92B4EFC, 1, 0, 0)
    block[16:32] = os.urandom(16)
    struct.pack_into("<iiQIIQ", block, 72, 1, 0, 2048, 0, 2, 0)
    struct.pack_into("<QQQ", block, 128, 0, 2048, at // 512)
    total = sum(struct.unpack("<64I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32))
    poke(card, at, bytes(block))


def btrfs(card: Path) -> None:
    """Its first 64 KiB are nothing, on a card without a table."""
    run(["mkfs.btrfs", "-q", "-f", card])


def swap(card: Path) -> None:
    part = card.with_name("swap")
    part.touch()
    os.truncate(part, 16 * MIB)
    run(["mkswap", part])
    put(part, card, 32 * MIB)


def ntfs_partition(card: Path) -> None:
    partitioned(card, "7")
    made_by("ntfs", PART)(card)


MADE_OUT = "an invalid FAT or exFAT file system on partition 1"


NAMELESS = "data that belongs to no file on partition 1"


HELD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (with_file, "files (a.jpg) on partition 1"),
    "a hidden file": (hidden, "files (.nomedia) on partition 1"),
    "files and no partitions": (lambda card: fat(card, 0, "a", "b", "c", "d"), "files (a, b, c, …)"),
    "another system": (with_root, "partition 2 of type 83"),
    "no file system": (lambda card: partitioned(card, "c"), "partition 1 of type 0c"),
    "extended": (lambda card: partitioned(card, "83", "5"), "an unknown partition table"),
    "GPT": (lambda card: run(["sfdisk", "-q", card], data=b"label: gpt\n,\n"), "a partition table (GPT)"),
    "ext4": (lambda card: run(["mkfs.ext4", "-q", card]), "an ext4 file system at byte 0"),
    "one byte behind a table": (behind_the_table, "data at byte 600 outside of any partition"),
    "one byte of the first MiB": (lambda card: poke(card, MIB - 1, b"x"), f"data at byte {MIB - 1}"),
    "one byte at the end": (lambda card: poke(card, SIZE - 1, b"x"), f"data at byte {SIZE - 1}"),
    "ones and zeros": (lambda card: starts_with(card, b"\xff" * (2 * MIB)), f"data at byte {2 * MIB}"),
    "deleted partitions": (
        deleted_partitions,
        "an ext4 file system at byte 16777216 outside of any partition",
    ),
    "ext4 beside an empty FAT": (
        beside_an_empty_fat,
        f"an ext4 file system at byte {60 * MIB} outside of any partition",
    ),
    "a boot loader beside an empty FAT": (boot_loader, "data at byte 8192 outside of any partition"),
    "a boot loader in an empty FAT": (loader_in_the_fat, "data at byte 8192"),
    "LOST.DIR": (in_lost_dir, "files (LOST.DIR/1234) on partition 1"),
    "Windows' folder": (
        lambda card: seen_by_windows(card, "a.jpg"),
        "files (System Volume Informati…) on partition 1",
    ),
    "no root folder": (without_root_folder, NAMELESS),
    "no FAT but its copy": (without_a_table, MADE_OUT),
    "a FAT smaller than its partition": (
        smaller_than_its_partition,
        f"data at byte {PART + 20 * MIB}, on partition 1 but outside of its file system",
    ),
    "folders in a circle": (folders_in_a_circle, MADE_OUT),
    "the backup of a GPT": (gpt_backup, f"a signature of gpt at byte {SIZE - 512}"),
    "LUKS": (made_by("luks", MIB), f"encrypted data (crypto_LUKS) at byte {MIB}"),
    "LVM": (made_by("lvm", MIB), f"a part of a RAID or LVM (LVM2_member) at byte {MIB + 512}"),
    "md 1.0": (md_member, f"a part of a RAID or LVM (linux_raid_member) at byte {SIZE - 8192}"),
    "btrfs": (btrfs, "a btrfs file system at byte 0"),
    "swap": (swap, f"data (swap) at byte {32 * MIB}"),
    "ISO 9660": (made_by("iso9660", 0), "an iso9660 file system at byte 0"),
    "squashfs": (made_by("squashfs", 20 * MIB), f"a squashfs file system at byte {20 * MIB}"),
    "NTFS": (ntfs_partition, "an ntfs file system on partition 1"),
}
