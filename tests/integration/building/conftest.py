"""Fixtures for building: a cluster folder, a cache shared by the session, and a count of what is held."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Place, make_place
from tests.support.judge import said
from tests.support.machine import Machine, machine


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all builds of the session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path) -> Place:
    """A new cluster folder."""
    return make_place(tmp_path, cache)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder that others than root can come to; pytest's own they cannot."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose user may open /dev/fuse, as on a desktop, and no loop device: it has none."""
    if not Path("/dev/fuse").exists():
        pytest.skip("there is no /dev/fuse here")
    with machine(tmp_path / "machine") as one:
        one.good("chmod", "666", "/dev/fuse")
        one.good("chmod", "600", "/dev/loop-control")
        yield one


@pytest.fixture
def nothing_held(tmp_path: Path) -> Iterator[None]:
    """After the test no loop device is attached that was not before, and nothing of piimg is mounted."""
    before = held(tmp_path)
    yield
    assert held(tmp_path) == before


def held(folder: Path) -> tuple[set[str], list[str]]:
    """The loop devices attached to node images in ``folder``, and the mounts of piimg."""
    listed = said("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines()
    loops = {line for line in listed if ".img" in line and str(folder) in line}
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/piimg/mnt-" in line]
    return loops, mounts
