"""The gateway among the rules of others, which takes minutes: only `make test-gateway` asks for it."""

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.model import Release
from tests.conftest import releases
from tests.integration.overlays import machines
from tests.support.debian import bare_debian
from tests.system.gateway import place as places
from tests.system.gateway.place import Place

_PACKAGES = (
    "busybox-static chrony dbus docker.io firewalld iproute2 iptables iputils-ping netcat-openbsd nftables "
    "openssh-client openssh-server procps python3 sudo systemd ufw"
)
_MORE = {Release.BOOKWORM: "", Release.TRIXIE: " docker-cli"}


@pytest.fixture(scope="session")
def debian() -> Iterator[Callable[[Release], Path]]:
    """An unpacked Debian of a release, with everything that decides about packets."""
    if missing := machines.missing():
        pytest.skip(missing)
    made: dict[Release, Path] = {}
    with contextlib.ExitStack() as stack:

        def unpacked(release: Release) -> Path:
            if release not in made:
                names = (_PACKAGES + _MORE[release]).replace(" ", ",")
                archive = bare_debian(f"gateway-{release}", f"--include={names}", suite=str(release))
                # 600 MB in memory: on a disk it takes a minute to come and go
                made[release] = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
                tar = ["tar", "-x", "-p", "--numeric-owner", "-f", str(archive), "-C", str(made[release])]
                subprocess.run(tar, check=True)
            return made[release]

        yield unpacked
    # dockerd leaves the folders of its containers; those that somebody uses stay
    for group in (*Path("/sys/fs/cgroup").glob("*/docker/*/"), *Path("/sys/fs/cgroup").glob("*/docker")):
        with contextlib.suppress(OSError):
            group.rmdir()


@pytest.fixture(params=[Release(word) for word in releases()])
def release(request: pytest.FixtureRequest) -> Release:
    """Each release whose programs are tried."""
    found = request.param
    assert isinstance(found, Release)
    return found


@pytest.fixture
def place(debian: Callable[[Release], Path], release: Release, tmp_path: Path) -> Iterator[Place]:
    """Machines of the test's own, the gateway closed."""
    with places.place(debian(release), release, lambda name: _made(tmp_path / name)) as found:
        yield found


@pytest.fixture
def twin(debian: Callable[[Release], Path], release: Release, tmp_path: Path) -> Iterator[machines.Machine]:
    """The judge: a second master without the gateway, on which the others do the same."""
    with places.alone(debian(release), release, _made(tmp_path / "twin")) as found:
        yield found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
