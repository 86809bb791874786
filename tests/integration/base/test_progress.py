"""The events of `piimg fetch` when it succeeds, fails or is stopped: each task that started has finished."""

import lzma
import os
import subprocess

import pytest

from tests.integration.base import site as faults
from tests.integration.base.conftest import FETCHED, Bench
from tests.support.checkout import TOP
from tests.support.cluster import command
from tests.support.events import events, interrupted, not_ended, outcomes

BASE = "/base.img.xz"


@pytest.fixture
def env(bench: Bench) -> dict[str, str]:
    (bench.folder / "cluster.toml").touch()
    return {**os.environ, "PIIMG_CACHE": str(bench.cache.folder), "PYTHONPATH": str(TOP)}


@pytest.mark.parametrize(
    ("content", "ended"),
    [
        (FETCHED, {"download": True, "unpack": True}),
        (FETCHED[:-100] + bytes(100), {"download": True}),
        (FETCHED[:200] + bytes(100) + FETCHED[300:], {"download": True, "unpack": False}),
    ],
)
def test_a_fetch(content: bytes, ended: dict[str, bool], bench: Bench, env: dict[str, str]) -> None:
    bench.pin(content)
    done = subprocess.run(
        command("--progress", "json", "fetch", "base"),
        cwd=bench.folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if content == FETCHED else 1), done.stderr
    emitted = events(done.stderr.splitlines())
    assert not_ended(emitted) == []
    assert outcomes(emitted, "base") == ended


@pytest.mark.parametrize("task", ["download", "unpack"])
def test_a_fetch_that_is_stopped(task: str, bench: Bench, env: dict[str, str]) -> None:
    bench.pin(streams(384) if task == "unpack" else FETCHED)
    if task == "download":
        bench.site.faults[BASE] += [faults.stall(len(FETCHED) // 2, 10)]
    words = command("--progress", "json", "fetch", "base")
    status, emitted = interrupted(words, bench.folder, env, task, "advanced")
    assert status == 130
    assert not_ended(emitted) == []
    assert outcomes(emitted, "base")[task] is False


def streams(count: int) -> bytes:
    """So many MiB of zeros, compressed: quick to make, slow enough to decode."""
    return lzma.compress(bytes(1 << 20), preset=0) * count
