"""The workflow's own steps, done here: the matrix, then a job for each of two nodes."""

import json
from pathlib import Path

import pytest

from tests.support.cluster import PASSPHRASE
from tests.system.container.conftest import NODES, OWNER, Cluster, digests
from tests.system.container.engine import Engine
from tests.system.container.workflow import Runner

pytestmark = [pytest.mark.timeout(1200), pytest.mark.container]


def runner(engine: Engine, cluster: Cluster, folder: Path, kept: Path, **given: str) -> Runner:
    public = {"github.event.repository.private": "true"}
    return Runner(engine, cluster.copy(folder / "checkout"), {**public, **given}, kept)


def test_from_the_matrix_to_the_artifacts(engine: Engine, cluster: Cluster, tmp_path: Path) -> None:
    planning = runner(engine, cluster, tmp_path / "plan", tmp_path / "kept")
    done = planning.job("plan")
    assert done.returncode == 0, done.stdout + done.stderr
    name, _, value = planning.output.read_text().partition("=")
    jobs = {job["node"]: job for job in json.loads(value)["include"]}
    assert name == "matrix" and len(jobs) == 6
    cluster.site.seen.clear()
    for node in NODES:
        given = {f"matrix.{key}": text for key, text in jobs[node].items()}
        secret = {"secrets.PIIMG_STATE": cluster.state, "secrets.PIIMG_SECRET_WIFI_PSK": PASSPHRASE}
        building = runner(engine, cluster, tmp_path / node, tmp_path / "kept", **given, **secret)
        done = building.job("build")
        assert done.returncode == 0, done.stdout + done.stderr
        built = building.checkout / "build"
        assert digests(built) == {node: cluster.digests[node]}
        assert not (built / f"{node}.img").exists()
        assert {file.stat().st_uid for file in (built, built / f"{node}.bmap")} == {OWNER}
    assert len(cluster.site.of("/base.img.zst")) == 1  # the second job has it from the cache


def test_a_public_repository_is_refused(engine: Engine, cluster: Cluster, tmp_path: Path) -> None:
    given = {"github.event.repository.private": "false"}
    done = runner(engine, cluster, tmp_path, tmp_path / "kept", **given).job("plan")
    assert done.returncode == 1 and "::error::node images hold private keys" in done.stdout


def test_without_the_keys_no_node_is_built(engine: Engine, cluster: Cluster, tmp_path: Path) -> None:
    given = {"matrix.node": "worker1", "matrix.cache": "none", "secrets.PIIMG_STATE": ""}
    one = runner(engine, cluster, tmp_path, tmp_path / "kept", **given)
    done = one.job("build")
    assert done.returncode == 1 and "there is no secret PIIMG_STATE" in done.stdout
    assert not (one.checkout / "build").exists()
