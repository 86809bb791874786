"""Packages installed while a container builds: a real Debian system, and the host's emulator of arm64."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import releases
from tests.support.cluster import command
from tests.system.container.conftest import OWNER, SECRET, Cluster
from tests.system.container.engine import Engine
from tests.system.container.test_rights import PRIVILEGED, there
from tests.system.real.dressing_bench import Bench, made_bench

pytestmark = [pytest.mark.timeout(1200), pytest.mark.container]

BUILD = ("build", "--node", "worker1", "--output", "build")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    with made_bench(releases()[0], folder) as made:
        yield made
    shutil.rmtree(folder)


def with_package(cluster: Cluster, folder: Path) -> Path:
    """A checkout with its keys, whose nodes have a package of the test's mirror."""
    copy = cluster.copy_with_keys(folder, OWNER)
    manifest = copy / "manifests" / "picluster.toml"
    text = manifest.read_text()
    manifest.write_text(text.replace("[cluster]\n", '[cluster]\npackages = ["piimg-top"]\n', 1))
    return copy


def built(copy: Path) -> tuple[set[str], str]:
    """The packages in the node, and its tree digest."""
    record = json.loads((copy / "build" / "worker1.json").read_text())
    return {package["name"] for package in record["packages"]}, record["tree_digest"]


def test_a_privileged_container_installs_what_the_host_installs(
    engine: Engine, container: str, cluster: Cluster, bench: Bench, tmp_path: Path
) -> None:
    copy, of_host = (with_package(cluster, tmp_path / name / "checkout") for name in ("inside", "host"))
    base = f"--volume={bench.base.file}:/base.img:ro"
    script = f"container-entry {' '.join(BUILD)} --base /base.img && container-entry doctor packages --json"
    words = (*there(copy), *PRIVILEGED, base, "--entrypoint=sh", container, "-c", script)
    done = engine.run("run", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    names, tree = built(copy)
    assert {"piimg-top", "piimg-one"} <= names
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), **SECRET}
    subprocess.run(
        command(*BUILD, "--base", bench.base.file),
        cwd=of_host,
        env={**env, "PIIMG_CACHE": str(of_host.parent / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert built(of_host) == (names, tree)
    assert str(copy) not in Path("/proc/self/mountinfo").read_text()
