"""The events of a build that fails or is stopped: each task that started has finished."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import Place, command
from tests.support.events import events, interrupted, not_ended, outcomes

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root"),
]
JSON = ("--progress", "json", "build", "--node", "worker1", "--base")


def test_a_build_that_fails(specimen: Callable[[str], Path], place: Place) -> None:
    layer = place.folder / "overlays" / "node-worker1"
    layer.mkdir()
    (layer / "layer.toml").write_text('remove = ["root/etc/there-is-none"]\n')
    done = place.run(*JSON, specimen("bookworm"))
    assert done.returncode == 1, done.stderr
    emitted = events(done.stderr.splitlines())
    assert not_ended(emitted) == []
    assert outcomes(emitted, "worker1") == {"copy": True, "inject": False, "prepare": False}


def test_a_base_that_is_damaged(specimen: Callable[[str], Path], place: Place, tmp_path: Path) -> None:
    base = tmp_path / "base.img.xz"
    base.write_bytes(b"\xfd7zXZ\0" + bytes(100))
    done = place.run(*JSON, base)
    assert done.returncode == 1, done.stderr
    assert not_ended(events(done.stderr.splitlines())) == []


@pytest.mark.parametrize("task", ["copy", "inject", "map"])
def test_a_build_that_is_stopped(task: str, specimen: Callable[[str], Path], place: Place) -> None:
    status, emitted = interrupted(command(*JSON, specimen("bookworm")), place.folder, place.env, task)
    assert status in (130, 0)  # what came too late for the map is a whole node
    assert not_ended(emitted) == []
    assert outcomes(emitted, "worker1").get("build", False) is (status == 0)
