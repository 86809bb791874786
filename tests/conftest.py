"""Fixtures for every test: the specimens, made at most once for the same inputs."""

import ctypes
import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from imagebuilder.base.cache import default_folder
from imagebuilder.system.process import run

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
_CLONE_NEWNS = 0x20000  # sched.h
SPECIMENS = (
    *("bullseye-2023-05", "bookworm-2024-11", "bookworm-2025-05"),
    *("trixie-2025-10", "trixie-2025-12", "trixie-2026-10"),
)
"""The images that are modelled. The name of a release alone means its newest image."""

NEWEST = ("bullseye-2023-05", "bookworm-2025-05", "trixie-2026-10")
"""The newest of each release."""


ON_REQUEST = {
    "tests/real/": ("PIIMG_TEST_REAL", "builds a Debian system: make test-real"),
    "tests/booting/": ("PIIMG_TEST_BOOT", "boots nodes in emulation: make test-boot"),
    "tests/cuts/": ("PIIMG_TEST_CUTS", "cuts the power of booting nodes: make test-cuts"),
    "tests/gateway/": ("PIIMG_TEST_GATEWAY", "runs Docker, ufw and firewalld in machines: make test-gateway"),
    "tests/booting_cluster/": ("PIIMG_TEST_CLUSTER", "boots a cluster in emulation: make test-cluster"),
    "tests/install/": ("PIIMG_TEST_INSTALL", "installs Debian systems: make test-install"),
    "tests/guest/": ("PIIMG_TEST_STATION", "boots a PC with USB readers in emulation: make test-station"),
    "tests/soak/test_long": ("PIIMG_SOAK", "puts hundreds of cards through one station: make soak"),
    "tests/container/": ("PIIMG_TEST_CONTAINER", "builds and runs containers: make test-container"),
    "tests/card/test_reinsert": ("PIIMG_TEST_SLOTS", "takes cards out and puts them in: make test-slots"),
    "tests/card/test_bad_before": ("PIIMG_TEST_SLOTS", "asks about cards again and again: make test-slots"),
    "tests/card/test_station": ("PIIMG_TEST_SLOTS", "plays minutes of changes of cards: make test-slots"),
}
"""What takes minutes: where it lies, the variable that asks for it, and what is said when none does."""


TOGETHER = {
    "tests/card/": "cards",
    "tests/soak/": "cards",
    "tests/test_completion.py": "cards",
    "tests/test_events.py": "cards",
    "tests/building/": "building",
}
"""What has to run in one worker of several, and its name: what puts in cards sees the cards of all others."""


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say so, what takes minutes and was not asked for, or needs a root that is not there."""
    for item in items:
        for place, (variable, reason) in ON_REQUEST.items():
            if not item.nodeid.startswith(place):
                continue
            if not os.environ.get(variable):
                item.add_marker(pytest.mark.skip(reason=reason))
            elif os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


def releases(variable: str) -> list[str]:
    """The releases that ``variable`` of ``ON_REQUEST`` asks for, such as "bookworm trixie"."""
    return os.environ.get(variable, "bookworm").split()


@pytest.fixture(scope="session")
def specimen() -> Callable[[str], Path]:
    """``specimen(name)`` is the path of that specimen: read-only and shared, so copy it to change it."""
    folder = default_folder() / "specimens"
    digest = _digest_of_inputs()

    def made(name: str) -> Path:
        image = folder / f"{name}-{digest}.img"
        folder.mkdir(parents=True, exist_ok=True)
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
