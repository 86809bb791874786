"""Judging a node image or a card by other means than piimg: sfdisk, debugfs, mtools, e2fsck, fsck.fat."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.model import Entry, Kind, Partition

SECTOR = 512
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True)
class Places:
    """Where the two partitions lie, in bytes."""

    boot: int
    boot_size: int
    root: int
    root_size: int


def said(*argv: str | Path) -> str:
    """What a program printed; a test fails when the program does."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def places(image: Path) -> Places:
    """The partitions as sfdisk sees them."""
    table = json.loads(said("sfdisk", "--json", image))["partitiontable"]
    boot, root = table["partitions"]
    return Places(
        boot["start"] * SECTOR, boot["size"] * SECTOR, root["start"] * SECTOR, root["size"] * SECTOR
    )


def disk_id(image: Path) -> str:
    """The disk id as sfdisk sees it: 8 hex digits."""
    return str(json.loads(said("sfdisk", "--json", image))["partitiontable"]["id"]).removeprefix("0x")


def debugfs(image: Path, command: str, where: Places | None = None) -> bytes:
    """What debugfs says to one command on the root partition."""
    argv = ["debugfs", "-R", command, f"{image}?offset={(where or places(image)).root}"]
    return subprocess.run(argv, capture_output=True, check=True).stdout


def on_boot(image: Path, path: str, where: Places | None = None) -> bytes:
    """A file of the boot partition, by mtype."""
    argv = ["mtype", "-i", f"{image}@@{(where or places(image)).boot}", f"::{path}"]
    return subprocess.run(argv, capture_output=True, check=True).stdout


def on_root(image: Path, path: str, where: Places | None = None) -> bytes:
    """A file of the root partition, by debugfs."""
    return debugfs(image, f'cat "{path}"', where)


def check_file_systems(image: Path, folder: Path) -> None:
    """e2fsck and fsck.fat call both file systems clean. ``folder`` takes a copy of the boot partition."""
    where = places(image)
    said("e2fsck", "-f", "-n", f"{image}?offset={where.root}")
    copy = folder / f"{image.name}.fat"
    with image.open("rb") as source, copy.open("wb") as target:
        source.seek(where.boot)
        target.truncate(where.boot_size)
        left = where.boot_size
        while left:
            chunk = source.read(min(left, 1 << 20))
            if chunk != _ZEROS[: len(chunk)]:
                target.seek(where.boot_size - left)
                target.write(chunk)
            left -= len(chunk)
    try:
        said("fsck.fat", "-n", copy)
    finally:
        copy.unlink()


def check_entries(image: Path, entries: Iterable[Entry]) -> int:
    """Every entry stands in the image with its content, mode and owner; gives how many were checked."""
    where, checked = places(image), list(entries)
    on_root = [entry for entry in checked if entry.partition is Partition.ROOT]
    for entry in checked:
        if entry.partition is Partition.BOOT:
            _check_boot(image, entry, where)
    with tempfile.TemporaryDirectory() as folder:
        for number, (entry, stat) in enumerate(
            zip(on_root, _stats(image, on_root, where, folder), strict=True)
        ):
            _check_root(entry, stat, Path(folder, str(number)))
    return len(checked)


def _stats(image: Path, entries: Sequence[Entry], where: Places, folder: str) -> list[str]:
    """What debugfs says of each path, in one run; the content of a file goes to ``folder``, by its number."""
    commands = [f'stat "{entry.path}"' for entry in entries]
    commands += [
        f'dump "{entry.path}" {folder}/{number}'
        for number, entry in enumerate(entries)
        if entry.kind in (Kind.FILE, Kind.LINES)
    ]
    argv = ["debugfs", "-f", "-", f"{image}?offset={where.root}"]
    script = "".join(f"{line}\n" for line in commands).encode()
    text = subprocess.run(argv, input=script, capture_output=True, check=True).stdout.decode()
    answers = re.split(r"^debugfs: (.*)\n", text, flags=re.MULTILINE)[
        1:
    ]  # it prints each command, then its answer
    assert answers[::2] == commands, text
    return answers[1::2][: len(entries)]


def _check_boot(image: Path, entry: Entry, where: Places) -> None:
    content = on_boot(image, entry.path, where)
    if entry.kind is Kind.WORDS:
        assert set(entry.content.split()) <= set(content.split()), entry.path
        assert content.count(b"\n") == 1 and content.endswith(b"\n"), entry.path
    elif entry.kind is Kind.NO_WORDS:
        assert not set(entry.content.split()) & set(content.split()), entry.path
    elif entry.kind is Kind.LINES:
        assert set(entry.content.splitlines()) <= set(content.splitlines()), entry.path
    else:
        assert content == entry.content, entry.path


def _check_root(entry: Entry, stat: str, content: Path) -> None:
    """``stat`` is what debugfs says of it, ``content`` has the content of a file."""
    if entry.kind in (Kind.REMOVE, Kind.NETPLAN) or (entry.optional and "Inode:" not in stat):
        assert "Inode:" not in stat, entry.path
        return
    assert "Inode:" in stat, f"{entry.path} is not in the image"
    if entry.kind is Kind.LINES:
        assert set(entry.content.splitlines()) <= set(content.read_bytes().splitlines()), entry.path
        return
    found = re.search(r"Type: (\w+)\s+Mode:\s+(\d+).*?User:\s+(\d+)\s+Group:\s+(\d+)", stat, re.DOTALL)
    assert found, stat
    kind = {Kind.FILE: "regular", Kind.DIRECTORY: "directory", Kind.LINK: "symlink"}[entry.kind]
    assert found[1] == kind, entry.path
    assert (int(found[3]), int(found[4])) == (entry.uid, entry.gid), f"{entry.path}: {stat}"
    if entry.kind is Kind.LINK:
        if len(entry.target) < 60:  # longer ones are not shown by stat
            assert f'Fast link dest: "{entry.target}"' in stat, entry.path
        return
    assert int(found[2], 8) == entry.mode, f"{entry.path}: mode {found[2]}, wanted {entry.mode:04o}"
    if entry.kind is Kind.FILE:
        assert content.read_bytes() == entry.content, entry.path
