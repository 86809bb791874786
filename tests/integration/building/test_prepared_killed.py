"""Preparations that are killed at any moment: nothing unfinished is used, and the base is as it was."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.image.partitions import boot_and_root, read_table
from imagebuilder.system import loop, mount
from imagebuilder.system.files import copy_sparse
from tests.integration.building.conftest import held
from tests.integration.building.killing import prepare, usable
from tests.integration.building.preparing import opened
from tests.support.checkout import TOP
from tests.support.cluster import Place, make_place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

TIMES = 50


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@pytest.mark.long
def test_fifty_preparations_that_are_killed(specimen: Callable[[str], Path], tmp_path: Path) -> None:
    image, folder = tmp_path / "base.img", tmp_path / "mycluster" / "state" / "mycluster" / "prepared"
    copy_sparse(specimen("bookworm"), image)
    place = make_place(tmp_path, tmp_path / "cache")
    folder.mkdir(parents=True)
    before, digest, written = held(tmp_path), sha256(image), image.stat().st_mtime_ns
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.integration.building.killing",
        image,
        place.folder,
        folder,
        str(TIMES),
    ]
    done = subprocess.run(argv, cwd=TOP, env=place.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert len(found) == TIMES and "nothing" in found and {"old", "new"} & set(found), found
    place.good("cleanup")
    assert place.good("cleanup") == "nothing was left behind\n"
    assert held(tmp_path) == before
    assert [one.name for one in folder.iterdir() if one.is_dir()] == []
    assert (sha256(image), image.stat().st_mtime_ns) == (digest, written)
    base = opened(image)
    prepare(base, place, folder, "new")
    assert usable(base, place, folder) == "new"
    assert {one.name for one in folder.iterdir()} == {"worker1.blocks", "worker1.bmap", "worker1.json"}


MOUNTED = """
import sys, time
from pathlib import Path
from imagebuilder.system import mount
with mount.ext4(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), read_only=True):
    print("mounted", flush=True)
    time.sleep(600)
"""


def test_cleanup_takes_no_base_from_a_run_that_goes_on(
    specimen: Callable[[str], Path], place: Place, nothing_held: None
) -> None:
    """A run that was killed had mounted the same base image."""
    image = specimen("bookworm")
    _, root = boot_and_root(read_table(image))
    argv: list[str | Path] = [sys.executable, "-c", MOUNTED, image, str(root.start), str(root.size)]
    with mount.ext4(image, root.start, root.size, read_only=True) as point:
        for _ in range(2):
            with subprocess.Popen(argv, env=place.env, stdout=subprocess.PIPE) as killed:
                assert killed.stdout and killed.stdout.readline() == b"mounted\n"
                killed.kill()
        begun = time.monotonic()
        said = place.good("cleanup")
        assert time.monotonic() - begun < 8, "it waits for a device that is in use"
        assert said.count("unmounted") == 2 and "detached" not in said
        assert (point / "etc" / "hostname").read_bytes()
        with loop.attached(
            image, offset=root.start, size=root.size, read_only=True, autoclear=True
        ) as device:
            place.good("cleanup")
            assert loop.backing(device) is not None, "the device is attached, and not mounted yet"
    place.good("cleanup")
    assert place.good("cleanup") == "nothing was left behind\n"
