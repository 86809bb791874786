"""Fixtures for building: a cluster folder, a cache shared by the session, and a count of what is held."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Place, make_place
from tests.judge import said


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all builds of the session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path) -> Place:
    """A new cluster folder."""
    return make_place(tmp_path, cache)


@pytest.fixture
def nothing_held() -> Iterator[None]:
    """After the test no loop device is attached that was not before, and nothing of piimg is mounted."""
    before = held()
    yield
    assert held() == before


def held() -> tuple[set[str], list[str]]:
    """The loop devices attached to node images, and the mounts of piimg."""
    listed = said("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines()
    loops = {line for line in listed if ".img" in line and "mycluster" in line}
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/piimg/mnt-" in line]
    return loops, mounts
