"""The whole cluster booted in emulation: most of an hour, so only `make test-cluster` asks for it."""

import os

import pytest

ASKED = "PIIMG_TEST_CLUSTER"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say so, unless asked for. Called for the whole run: only what lies here is meant."""
    for item in items:
        if "tests/booting_cluster/" in item.nodeid:
            if not os.environ.get(ASKED):
                item.add_marker(pytest.mark.skip(reason="boots a cluster in emulation: make test-cluster"))
            elif os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))
