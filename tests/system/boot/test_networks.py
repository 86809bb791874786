"""Nodes on other networks than that of the README, booted on every release and checked."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS
from tests.support import networks
from tests.support.cluster import Place, make_place
from tests.system.boot.conftest import CACHE, RELEASES

pytestmark = [pytest.mark.networks, pytest.mark.timeout(1800)]
SHARED = {"PIIMG_CACHE": str(CACHE.folder)}  # with the companion kernel


@pytest.fixture(params=RELEASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A cluster folder, its cache with the base of a release."""
    made = make_place(tmp_path, tmp_path / "cache")
    subprocess.run([SCRIPTS / "make-debian-base", request.param, tmp_path / "base.img"], check=True)
    yield made
    shutil.rmtree(tmp_path)  # gigabytes


def booted(place: Place, text: str, *nodes: str) -> dict[str, set[str]]:
    """Boot nodes of the cluster of ``text``; the names of the checks of each, all of which must be good."""
    place.manifest.write_text(text)
    names = [word for node in nodes for word in ("--node", node)]
    place.good("build", *names, "--base", place.folder.parent / "base.img")
    shutil.rmtree(place.cache)
    document = json.loads(place.good("boot", *names, "--images", "build", "--json", env=SHARED))
    wrong = [
        (node["node"], check) for node in document["nodes"] for check in node["checks"] if not check["good"]
    ]
    assert document["good"] and wrong == []
    return {node["node"]: {check["check"] for check in node["checks"]} for node in document["nodes"]}


def test_a_static_uplink_by_ethernet_a_vlan_and_ipv6(place: Place) -> None:
    checks = booted(place, networks.BOOTED, "master", "worker1")
    assert {"ipv6", "gateway", "route", "static"} <= checks["master"]
    assert {"ipv6", "route", "static"} <= checks["worker1"]


def test_without_a_gateway_with_and_without_a_static_address(place: Place) -> None:
    checks = booted(place, networks.BOOTED_AT_HOME, "worker1", "worker2", "worker3")
    assert {"ipv6", "static", "route"} <= checks["worker1"]
    for node in ("worker2", "worker3"):
        assert {"address", "mask", "dns", "hosts"} <= checks[node]
        assert not {"ipv6", "static", "route", "gateway"} & checks[node]
