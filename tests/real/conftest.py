"""The main job on a real Debian system: minutes the first time, so only `make test-real` asks for it."""

import os

import pytest

ASKED = "PIIMG_TEST_REAL"
"""Names the releases to build, such as "bookworm trixie"."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say so, unless asked for. Called for the whole run: only what lies here is meant."""
    for item in items:
        if "tests/real/" in item.nodeid:
            if not os.environ.get(ASKED):
                item.add_marker(pytest.mark.skip(reason="builds a Debian system: make test-real"))
            elif os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))
