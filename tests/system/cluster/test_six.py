"""`piimg boot --all`: the six nodes of the README, on one switch, are the cluster the manifest says."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from imagebuilder.boot import cluster_checks, gateway_checks
from imagebuilder.boot.checks import CHECKS
from tests.conftest import SCRIPTS
from tests.support.cluster import make_place
from tests.system.boot.conftest import CACHE

pytestmark = pytest.mark.cluster

RELEASE = "bookworm"
NODES = ("master", "worker1", "worker2", "worker3", "worker4", "worker5")
LIMIT = 20 * 60.0  # seconds on two cores by emulation
MEMORY = 4 << 30  # bytes for all six


@pytest.mark.timeout(3600)
def test_six_nodes_are_a_cluster(tmp_path: Path) -> None:
    base = tmp_path / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", RELEASE, base], check=True)
    place = make_place(tmp_path, tmp_path / "cache")
    place.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    place.good("build", "--all", "--base", base)
    begun = time.monotonic()
    kernel = {"PIIMG_CACHE": str(CACHE.folder)}  # with the companion kernel, and without the base image
    document = json.loads(place.good("boot", "--all", "--images", "build", "--json", env=kernel))
    took = time.monotonic() - begun
    assert document["good"]
    nodes = {node["node"]: node for node in document["nodes"]}
    assert tuple(nodes) == NODES
    for name, node in nodes.items():
        checks = {one["check"] for one in node["checks"]}
        assert checks == {one.name for one in CHECKS} - {"ipv6"} - (
            {"gateway"} if name != "master" else set()
        )
        assert all(one["good"] is True for one in node["checks"])
    assert {one["check"] for one in document["cluster"]} == {*cluster_checks.ABOUT, *gateway_checks.ABOUT}
    assert all(one["good"] is True for one in document["cluster"])
    assert sum(node["memory"] for node in nodes.values()) < MEMORY
    print(f"six nodes booted and checked in {took:.0f} s")
    assert took < LIMIT
