"""The boot partition's tree, written by mtools."""

from pathlib import Path

import pytest

from imagebuilder.image.tree import FAT_EPOCH, BootTree
from imagebuilder.model import Entry, Kind, Partition
from tests.integration.image.making import make_image
from tests.support.judge import said

YEAR_OF = {0: "1980-01-01", FAT_EPOCH - 1: "1980-01-01", 1234567890: "2009-02-13"}


@pytest.mark.parametrize("mtime", YEAR_OF)
def test_no_time_before_the_first_that_fat_can_store(tmp_path: Path, mtime: int) -> None:
    """mtools takes a time of 1970 for one of 2098."""
    made = make_image(tmp_path / "boot.img")
    entry = Entry(Partition.BOOT, "/new/file", Kind.FILE, "mine")
    BootTree(made.path, made.boot_at).write_file(entry, b"x", mtime)
    (line,) = [
        splitline
        for splitline in said("mdir", "-i", made.boot, "::/new").splitlines()
        if splitline.startswith("file")
    ]
    assert f" {YEAR_OF[mtime]} " in line
