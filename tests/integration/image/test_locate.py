"""Whose a byte is: asked of real file systems in which each file is found by its own content."""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.image.locate import file_at
from imagebuilder.image.partitions import Slice, read_table
from imagebuilder.system.process import run
from tests.integration.image.making import Made, debugfs, fill_boot, make_image, put
from tests.integration.image.test_allocation import EXTS

FATS = {
    "fat16": {"boot": 8192, "fat": ("-F", "16", "-s", "1")},
    "fat16-large-clusters": {"boot": 40960, "fat": ("-F", "16", "-s", "8", "-f", "1")},
    "fat32": {"boot": 81920, "fat": ("-F", "32", "-s", "1")},
}
NAMES = ("plain.bin", "a name with spaces.bin", "ein número.bin", "folder/deep.bin", "[1].bin")


def slices(made: Made) -> tuple[Slice, Slice]:
    boot, root = read_table(made.path).slices
    return boot, root


def contents() -> dict[str, bytes]:
    chance = random.Random(7)
    return {name: chance.randbytes(30_000) for name in NAMES}


def places(made: Made, content: bytes) -> list[int]:
    """Where the first, the middle and the last sector of a file lie in the image, found by what they hold."""
    image = made.path.read_bytes()
    found = [image.find(content[at : at + 512]) for at in (0, 14_848, 29_184)]
    assert -1 not in found
    return [place + 100 for place in found]


def with_files(made: Made, folder: Path) -> dict[str, bytes]:
    """Write ``contents`` to the root partition."""
    commands = ["mkdir folder"]
    for number, (name, content) in enumerate(contents().items()):
        (folder / f"{number}").write_bytes(content)
        commands.append(f'write "{folder / str(number)}" "/{name}"')
    debugfs(made, *commands)
    return contents()


@pytest.mark.parametrize("ext", EXTS)
def test_a_byte_of_a_file_in_ext4_is_reported_by_its_path(tmp_path: Path, ext: str) -> None:
    made = make_image(tmp_path / "x.img", ext=EXTS[ext], root=32768)
    files = with_files(made, tmp_path)
    made = replace(made, path=made.path.rename(tmp_path / "a?b.img"))
    _, root = slices(made)
    for name, content in files.items():
        assert [file_at(made.path, root, place) for place in places(made, content)] == [f"/{name}"] * 3


def test_folders_and_hard_links_are_reported(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(30_000)
    made = with_root_of(tmp_path, "folder/b", "plain", content)
    _, root = slices(made)
    assert file_at(made.path, root, places(made, content)[0]) == "/folder/b"
    (block,) = re.findall(r"\d+", debugfs(made, "blocks /folder").splitlines()[-1])
    assert file_at(made.path, root, made.root_at + int(block) * 1024) == "/folder"
    (block, *_) = re.findall(r"\d+", debugfs(made, "blocks /").splitlines()[-1])
    assert file_at(made.path, root, made.root_at + int(block) * 1024) == "/"


def test_a_name_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(30_000)
    made = with_root_of(tmp_path, "folder/a\n99\tb\x1b[31m", "z", content)
    _, root = slices(made)
    assert file_at(made.path, root, places(made, content)[0]) == "/folder/a?99?b?[31m"


def with_root_of(folder: Path, name: str, link: str, content: bytes) -> Made:
    """An image whose root partition has one file of two names."""
    made = make_image(folder / "x.img", root=32768)
    files = folder / "files"
    (files / name).parent.mkdir(parents=True)
    (files / name).write_bytes(content)
    (files / link).hardlink_to(files / name)
    run(
        [
            "mkfs.ext4",
            "-q",
            "-F",
            "-b",
            "1024",
            "-d",
            files,
            "-E",
            f"offset={made.root_at}",
            made.path,
            "16384k",
        ]
    )
    return made


@pytest.mark.parametrize("ext", ["1k", "raspberry-pi-os"])
def test_what_ext4_keeps_of_its_own_is_reported_in_words(tmp_path: Path, ext: str) -> None:
    made = make_image(tmp_path / "x.img", ext=EXTS[ext], root=65536)
    _, root = slices(made)
    said = made.dumped()
    size = int(re.findall(r"Block size: +(\d+)", said)[0])
    words = {
        "Group descriptors at": "the group descriptors",
        "Reserved GDT blocks at": "the reserved group descriptors",
        "Block bitmap at": "the block bitmap",
        "Inode bitmap at": "the inode bitmap",
        "Inode table at": "the inode table",
        "Backup superblock at": "the superblock",
    }
    kept = {what: int(at) for word, what in words.items() for at in re.findall(rf"{word} (\d+)", said)}
    assert len(kept) == (6 if ext == "1k" else 5)  # the other is of one group
    for what, block in kept.items():
        assert file_at(made.path, root, made.root_at + block * size) == what
        assert file_at(made.path, root, made.root_at + (block + 1) * size - 1) == what
    journal = re.findall(r"\d+", debugfs(made, "blocks <8>").splitlines()[-1])
    assert file_at(made.path, root, made.root_at + int(journal[len(journal) // 2]) * size) == "the journal"
    assert file_at(made.path, root, made.root_at + 1024 + 56) == "the superblock"
    free = int(re.findall(r"  Free blocks: (\d+)", said)[-1])
    assert file_at(made.path, root, made.root_at + free * size) == ""


@pytest.mark.parametrize("fat", FATS)
def test_a_byte_of_a_file_in_fat_is_reported_by_its_path(tmp_path: Path, fat: str) -> None:
    made = make_image(tmp_path / "x.img", boot=int(str(FATS[fat]["boot"])), fat=tuple(FATS[fat]["fat"]))  # type: ignore[arg-type]
    fill_boot(made, tmp_path / "files", contents())
    boot, _ = slices(made)
    for name, content in contents().items():
        reported = "" if "[" in name else f"/{name}"  # mtools takes it for a pattern
        assert [file_at(made.path, boot, place) for place in places(made, content)] == [reported] * 3
    image = made.path.read_bytes()
    folder = image.find(b".          ", made.boot_at)
    assert file_at(made.path, boot, folder) == "/folder"
    assert file_at(made.path, boot, image.find(b"PLAIN   BIN", made.boot_at)) == "/"
    assert file_at(made.path, boot, made.boot_at + 3) == "the boot sector"
    first_table = made.boot_at + 512 * int.from_bytes(image[made.boot_at + 14 : made.boot_at + 16], "little")
    assert file_at(made.path, boot, first_table) == "the file allocation table"
    assert file_at(made.path, boot, made.boot_at + made.boot_size - 70_000) == ""


def test_what_is_not_understood_is_reported_by_nothing(tmp_path: Path) -> None:
    made = make_image(tmp_path / "x.img", root=32768)
    boot, root = slices(made)
    for part in (boot, root):
        assert file_at(made.path, part, part.start - 1) == file_at(made.path, part, part.end) == ""
        put(made.path, part.start, bytes(8192))
        assert file_at(made.path, part, part.start + 5000) == ""
    assert file_at(tmp_path / "nothing", root, root.start) == ""
