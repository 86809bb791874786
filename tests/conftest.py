"""Fixtures for every test: the specimens, made at most once for the same inputs."""

import ctypes
import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.system.process import run
from tests.support.checkout import TOP

# An example may take long on a busy machine: hypothesis' own limit of 200 ms says nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

SCRIPTS = TOP / "scripts"
_CLONE_NEWNS = 0x20000  # sched.h
SPECIMENS = (
    *("bullseye-2023-05", "bookworm-2024-11", "bookworm-2025-05"),
    *("trixie-2025-10", "trixie-2025-12", "trixie-2026-10"),
)
"""The images that are modelled. The name of a release alone means its newest image."""

NEWEST = ("bullseye-2023-05", "bookworm-2025-05", "trixie-2026-10")
"""The newest of each release."""


TOGETHER = {
    "tests/integration/card/test_property.py": "properties",
    "tests/integration/card/": "cards",
    "tests/system/soak/": "cards",
    "tests/integration/cli/test_completion.py": "cards",
    "tests/integration/cli/test_events.py": "cards",
    "tests/integration/building/": "building",
}
"""What has to run in one worker of several, and its name: what puts in cards sees the cards of all others.

The first that fits counts. The properties look for no cards, and `make test-long` runs nothing that does.
"""


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of several a /run/piimg of its own: cleaning up, it does not see what others hold."""
    if hasattr(config, "workerinput") and os.geteuid() == 0:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/run/piimg").mkdir(mode=0o700, exist_ok=True)
        run(["mount", "--make-rprivate", "/"])
        run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", "/run/piimg"])


class _ByPlace(LoadScopeScheduling):  # type: ignore[misc]
    """A worker gets whole files, and whole groups of TOGETHER."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((name for place, name in TOGETHER.items() if file.startswith(place)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """The scheduler of `pytest -n`, whatever --dist says."""
    return _ByPlace(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, and say so, what takes minutes and needs root, where that is missing; give `long` ones time."""
    slow = {line.partition(":")[0] for line in config.getini("markers") if ": make " in line}
    for item in items:
        if os.geteuid() != 0 and slow & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200))


def releases() -> list[str]:
    """The releases that a slow test runs on: ``PIIMG_RELEASES``, such as "bookworm trixie"."""
    return os.environ.get("PIIMG_RELEASES", "bookworm").split()


@pytest.fixture(scope="session")
def specimen() -> Callable[[str], Path]:
    """``specimen(name)`` is the path of that specimen: read-only and shared, so copy it to change it."""
    folder = Cache(default_folder()).of_tests("specimens")
    digest = _digest_of_inputs()

    def made(name: str) -> Path:
        image = folder / f"{name}-{digest}.img"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not image.exists():
                run([SCRIPTS / "make-specimen", name, image])
                image.chmod(0o444)
        return image

    return made


def _digest_of_inputs() -> str:
    """A digest over everything a specimen is made from: scripts and layers, with their x bits."""
    digest = hashlib.sha256()
    files = [path for path in (SCRIPTS / "bases").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in sorted([SCRIPTS / "make-specimen", *files]):
        executable = bool(path.stat().st_mode & 0o100)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(SCRIPTS)} {executable} {content}\n".encode())
    return digest.hexdigest()[:16]
