"""A guest for all tests of this folder, booted once; each test begins with no card anywhere."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.base.cache import Cache, default_folder
from tests.system.station import disk
from tests.system.station.guest import Guest, booted


@pytest.fixture(scope="session")
def running(specimen: Callable[[str], Path]) -> Iterator[Guest]:
    """The guest."""
    with booted(disk.make(Cache(default_folder()), specimen("bookworm"))) as guest:
        yield guest


@pytest.fixture
def guest(running: Guest) -> Iterator[Guest]:
    """The guest, with no card in it at the beginning, and at the end."""
    yield running
    running.clear()
    running.good(f"rm -rf {disk.CLUSTER}/state/*/station.json {disk.CLUSTER}/state/*/cards.jsonl")
