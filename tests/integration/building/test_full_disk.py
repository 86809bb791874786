"""Building into a disk that is too small: the error names the disk, what is needed and what is free."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.building.test_without_root import as_user
from tests.support import judge
from tests.support.cluster import Place, make_place
from tests.support.machine import ID, Machine

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="root mounts the folders"),
    pytest.mark.usefixtures("nothing_held"),
]

MIB = 1 << 20
SAID = re.compile(
    r"piimg: no room on the disk of (\S+):"
    r" (building|preparing) \w+ needs about ([\d.]+) MB, and ([\d.]+) ([kM])B were free"
)


@pytest.fixture
def small(home: Path) -> Iterator[Callable[[int], Path]]:
    """``small(MIB)`` is a folder on a disk of that size."""
    folder = home / "small"
    folder.mkdir()

    def made(size: int) -> Path:
        judge.said("mount", "-t", "tmpfs", "-o", f"size={size}m,mode=1777", "tmpfs", folder)
        return folder

    yield made
    judge.said("umount", folder)


def with_large_file(place: Place) -> None:
    large = place.folder / "overlays" / "worker" / "root" / "opt" / "large"
    large.parent.mkdir(parents=True)
    large.write_bytes(os.urandom(40 * MIB))


def test_the_disk_of_the_images_is_named(
    small: Callable[[int], Path], specimen: Callable[[str], Path], home: Path
) -> None:
    place, folder = make_place(home, home / "cache"), small(20)
    words = ("build", "--node", "worker1", "--base", specimen("bookworm"), "--output", folder)
    said = place.refused(1, *words)
    found = SAID.search(said)
    assert found, said
    assert (found[1], found[2]) == (str(folder), "building")
    assert float(found[3]) > float(found[4]) > 18
    assert "piimg build --output DIR" in said
    assert [file.name for file in folder.iterdir()] == [".worker1.lock"]
    judge.said("mount", "-o", "remount,size=400m", folder)
    place.good(*words)


@pytest.mark.parametrize("size", [4, 16, 60], ids=["template", "boot partition", "root partition"])
def test_the_disk_of_the_cluster_is_named(
    size: int, small: Callable[[int], Path], specimen: Callable[[str], Path], home: Path
) -> None:
    """It fills up while a node is prepared: by the template, or by what is written into the copy."""
    folder = small(400)
    place = make_place(folder, home / "cache")
    with_large_file(place)
    judge.said("mount", "-o", f"remount,size={size + 40}m", folder)  # the layer's file is there, too
    words = ("build", "--node", "worker1", "--base", specimen("bookworm"), "--output", home / "out")
    said = place.refused(1, *words)
    found = SAID.search(said)
    assert found, said
    assert found[1] == str(place.folder / "state" / "mycluster" / "prepared") and found[2] == "preparing"
    assert found[5] == "k" or float(found[3]) > float(found[4]), said
    prepared = place.folder / "state" / "mycluster" / "prepared"
    assert [file.name for file in prepared.iterdir() if not file.name.endswith(".lock")] == []
    judge.said("mount", "-o", "remount,size=400m", folder)
    place.good(*words)


def test_a_user_without_root_sees_the_same(
    specimen: Callable[[str], Path], home: Path, desktop: Machine
) -> None:
    place = make_place(home, home / "cache")
    with_large_file(place)
    base = home / "base.img"
    judge.said("cp", "--sparse=always", specimen("bookworm"), base)
    folder = home / "small"
    folder.mkdir()
    judge.said("chown", "-R", f"{ID}:{ID}", home)
    desktop.good("mount", "-t", "tmpfs", "-o", "size=60m,mode=1777", "tmpfs", folder)
    done = as_user(desktop, place, "build", "--node", "worker1", "--base", base, "--output", folder)
    assert done.returncode == 1 and SAID.search(done.stderr), done.stderr


def test_a_user_without_a_name_is_told_so(
    specimen: Callable[[str], Path], home: Path, desktop: Machine, tmp_path: Path
) -> None:
    """fusermount3 refuses a user number that has no name; fuse2fs then says other things as well."""
    place = make_place(home, home / "cache")
    base, names = home / "base.img", tmp_path / "passwd"
    judge.said("cp", "--sparse=always", specimen("bookworm"), base)
    judge.said("chown", "-R", f"{ID}:{ID}", home)
    lines = Path("/etc/passwd").read_text().splitlines(keepends=True)
    names.write_text("".join(line for line in lines if line.split(":")[2] != str(ID)))
    desktop.good("mount", "--bind", names, "/etc/passwd")
    done = as_user(desktop, place, "build", "--node", "worker1", "--base", base)
    assert done.returncode == 1
    assert re.search(r"fusermount3?: could not determine username", done.stderr), done.stderr
    assert "this user number has no name" in done.stderr
    doctor = as_user(desktop, place, "doctor", "build")
    assert f"the user number {ID} has no name" in doctor.stdout, doctor.stdout
