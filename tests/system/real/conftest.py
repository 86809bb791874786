"""Fixtures for packages in a real Debian system."""

import shutil
from collections.abc import Iterator

import pytest

from imagebuilder.dressing.store import Store
from tests.conftest import releases
from tests.system.real.dressing_bench import Bench, made_bench


@pytest.fixture(scope="module", params=releases())
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    with made_bench(request.param, folder) as made:
        yield made
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def free_the_disk(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove the dressed bases of a test, of nearly a gigabyte each."""
    yield
    if "bench" in request.fixturenames:
        for image in Store(request.getfixturevalue("bench").cache).folder.glob("*.img"):
            image.unlink()
