"""Building where the work folder is a tmpfs or an overlayfs, as in containers; with the same result."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.building.test_without_root import as_user, digests
from tests.support import judge
from tests.support.cluster import make_place
from tests.support.machine import ID, Machine

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="root mounts the folders"),
    pytest.mark.usefixtures("nothing_held"),
    pytest.mark.long,
]

MOUNTS = {
    "tmpfs": ["mount", "-t", "tmpfs", "-o", "size=2g,mode=755", "tmpfs"],
    "overlayfs": ["mount", "-t", "overlay", "overlay"],
}


@pytest.fixture(params=MOUNTS)
def work(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of that kind."""
    words = [*MOUNTS[request.param]]
    folder, below = home / "work", [tmp_path / name for name in ("lower", "upper", "spare")]
    for one in (folder, *below):
        one.mkdir()
    if request.param == "overlayfs":
        lower, upper, spare = below
        words += ["-o", f"lowerdir={lower},upperdir={upper},workdir={spare}"]
    judge.said(*words, folder)
    yield folder
    judge.said("umount", folder)


def test_the_tree_is_the_same(
    work: Path,
    home: Path,
    desktop: Machine,
    specimen: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """By root and by an ordinary user; the cache is on another file system, or on the same."""
    base = home / "base.img"
    judge.said("cp", "--sparse=always", specimen("bookworm"), base)
    place = make_place(home, home / "cache")
    nodes = ("build", "--node", "master", "--node", "worker2", "--base", base)
    place.good(*nodes)
    expected = digests(place.build)
    assert len(expected) == 2
    place.good(*nodes, "--output", work / "by-root")
    place.good(*nodes, "--output", work / "cached-there", env={"PIIMG_CACHE": str(work / "cache")})
    for name in ("by-root", "cached-there"):
        assert digests(work / name) == expected
        judge.check_file_systems(work / name / "worker2.img", tmp_path)
    judge.said("chown", "-R", f"{ID}:{ID}", home)
    done = as_user(desktop, place, *nodes, "--output", work / "by-user")
    assert done.returncode == 0, done.stderr
    assert digests(work / "by-user") == expected
    judge.check_file_systems(work / "by-user" / "worker2.img", tmp_path)
