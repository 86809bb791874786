"""Several nodes at once: what is reported when one fails; many signals to stop still end cleanly."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.building.conftest import held
from tests.support.cluster import Place
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root")


def test_the_node_that_failed_is_reported_and_not_those_it_stopped(
    specimen: Callable[[str], Path], place: Place
) -> None:
    layer = place.folder / "overlays" / "node-worker2"
    layer.mkdir()
    (layer / "layer.toml").write_text('remove = ["root/etc/there-is-none"]\n')
    words = ("build", "--node", "worker1", "--node", "worker2", "--base", specimen("bookworm"), "--jobs", "2")
    assert "/etc/there-is-none is not in the base image" in place.refused(1, *words)


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_again_and_again_it_still_cleans_up(
    wish: signal.Signals, specimen: Callable[[str], Path], place: Place
) -> None:
    base, before = specimen("bookworm"), held(place.folder)
    building = place.start("build", "--all", "--base", base, "--jobs", "3")
    wait_until(lambda: held(place.folder) != before or building.poll() is not None, 30, pause=0.01)
    assert building.poll() is None
    for _ in range(6):
        building.send_signal(wish)
        time.sleep(0.02)
    said = building.communicate(timeout=60)[1].decode()
    assert building.returncode == 130, said
    assert "Traceback" not in said
    assert held(place.folder) == before
    assert not list(place.build.glob(".*.partial"))
