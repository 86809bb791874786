"""A real piimg process stopped in the middle of a download or of unpacking; then the next run."""

import lzma
import os
import signal
import subprocess
import sys

import pytest

from tests.integration.base import site as faults
from tests.integration.base.conftest import FETCHED, Bench
from tests.support.checkout import TOP
from tests.support.waiting import wait_until

BASE = "/base.img.xz"
PROJECT = TOP


def begin(bench: Bench) -> subprocess.Popen[str]:
    (bench.folder / "cluster.toml").touch()
    program = "from imagebuilder.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "--manifest", bench.folder / "cluster.toml", "fetch", "base"],
        env={**os.environ, "PIIMG_CACHE": str(bench.cache.folder), "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def partial_is_half_full(bench: Bench) -> bool:
    return any(path.stat().st_size > len(FETCHED) // 3 for path in bench.cache.downloads.glob("*.partial"))


def is_unpacking(bench: Bench) -> bool:
    return (bench.cache.bases / ".unpacking.partial").exists()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_stopped_while_downloading_then_resumed(bench: Bench, number: signal.Signals, status: int) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.stall(len(FETCHED) // 2, 10)]
    process = begin(bench)
    wait_until(lambda: partial_is_half_full(bench))
    process.send_signal(number)
    said = process.communicate(timeout=10)[1]
    assert process.returncode == status
    assert "Traceback" not in said
    bench.assert_nothing_final()
    bench.assert_fetches()
    assert bench.site.of(BASE)[-1].range is not None, "what had come was not used"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_stopped_while_unpacking_then_resumed(bench: Bench, number: signal.Signals, status: int) -> None:
    streams = 384  # of zeros: quick to make, slow enough to decode
    bench.pin(lzma.compress(bytes(1 << 20), preset=0) * streams)
    process = begin(bench)
    wait_until(lambda: is_unpacking(bench))
    process.send_signal(number)
    said = process.communicate(timeout=10)[1]
    assert process.returncode == status
    assert "Traceback" not in said
    assert bench.cache.records() == ()
    left = [path.name for path in bench.cache.bases.iterdir()]
    assert left == ([".unpacking.partial"] if number == signal.SIGKILL else [])
    assert bench.fetch().path.stat().st_size == streams << 20
    assert len(bench.site.of(BASE)) == 1, "what had come was not used"
    assert not is_unpacking(bench)
