"""Paths are opened inside a mounted tree while folders elsewhere on the machine are renamed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.image import tree

RENAMER = """
import os, sys
here, there = sys.argv[1:]
while True:
    os.rename(here, there)
    os.rename(there, here)
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """An open folder with a link through ``..``, while a process renames a folder outside of it."""
    for name in ("root/srv", "root/mnt", "here/moving", "there"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root/srv/link").symlink_to("../mnt")
    (tmp_path / "root/mnt/file").touch()
    handle = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    argv = [sys.executable, "-c", RENAMER, str(tmp_path / "here/moving"), str(tmp_path / "there/moving")]
    with subprocess.Popen(argv) as renamer:
        yield handle
        assert renamer.poll() is None
        renamer.kill()
    os.close(handle)


def opened(root: int) -> bool:
    try:
        os.close(tree.open_inside(root, "/srv/link/file", os.O_RDONLY))
    except BlockingIOError:
        return False
    return True


def test_renames_elsewhere_do_not_fail_an_open(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses such an open now and then (openat2(2), EAGAIN): it is repeated."""
    with monkeypatch.context() as once:
        once.setattr(tree, "_RESOLVE_TRIES", 1)
        for _ in range(1_000_000):
            if not opened(root):
                break
        else:
            pytest.fail("the kernel never refused an open here: this test shows nothing")
    assert all(opened(root) for _ in range(20_000))
