"""Judging a node image or a card by other means than piimg: sfdisk, debugfs, mtools, e2fsck, fsck.fat."""

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.model import Entry, Kind, Partition

SECTOR = 512


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
            if chunk.strip(b"\0"):
                target.seek(where.boot_size - left)
                target.write(chunk)
            left -= len(chunk)
    try:
        said("fsck.fat", "-n", copy)
    finally:
        copy.unlink()


def check_entries(image: Path, entries: Iterable[Entry]) -> int:
    """Every entry stands in the image with its content, mode and owner; gives how many were checked."""
    count = 0
    where = places(image)
    for entry in entries:
        count += 1
        if entry.partition is Partition.BOOT:
            _check_boot(image, entry, where)
        else:
            _check_root(image, entry, where)
    return count


def _check_boot(image: Path, entry: Entry, where: Places) -> None:
    content = on_boot(image, entry.path, where)
    if entry.kind is Kind.WORDS:
        assert set(entry.content.split()) <= set(content.split()), entry.path
        assert content.count(b"\n") == 1 and content.endswith(b"\n"), entry.path
    elif entry.kind is Kind.LINES:
        assert set(entry.content.splitlines()) <= set(content.splitlines()), entry.path
    else:
        assert content == entry.content, entry.path


def _check_root(image: Path, entry: Entry, where: Places) -> None:
    stat = debugfs(image, f'stat "{entry.path}"', where).decode()
    if entry.kind in (Kind.REMOVE, Kind.NETPLAN) or (entry.optional and "Inode:" not in stat):
        assert "Inode:" not in stat, entry.path
        return
    assert "Inode:" in stat, f"{entry.path} is not in the image"
    if entry.kind is Kind.LINES:
        assert set(entry.content.splitlines()) <= set(on_root(image, entry.path, where).splitlines()), (
            entry.path
        )
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
        assert on_root(image, entry.path, where) == entry.content, entry.path
