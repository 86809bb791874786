"""podman, piimg's container in it, and a cluster built on the host to compare with: `make test-container`."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.base.site import Site, serving
from tests.support.checkout import TOP, copy_checkout
from tests.support.cluster import PASSPHRASE, command
from tests.support.debian import bare_debian
from tests.system.container.engine import IMAGE, Engine, make_engine, remove

BOOTSTRAP = (
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
    "--customize-hook=rm -r $1/var/lib/apt/lists",
)
"""A Debian as small as debian:bookworm-slim."""
NODES = ("master", "worker1")
OWNER = 4242  # whose the checkouts are: no account of that number, as on somebody else's CI machine
SECRET = {"PIIMG_SECRET_WIFI_PSK": PASSPHRASE}
CANARY = "this-must-not-leave-the-checkout"


@dataclass(frozen=True)
class Cluster:
    """A checkout whose example cluster has a base image that ``site`` serves, and what the host made of it.

    ``state`` is what a repository has as its secret PIIMG_STATE, ``digests`` the tree digest by node.
    """

    checkout: Path
    site: Site
    state: str
    digests: dict[str, str]

    def copy(self, folder: Path, owner: int = OWNER) -> Path:
        """A checkout of its own, as a job begins with, which belongs to ``owner``."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.checkout, folder)
        give(folder, owner)
        return folder

    def copy_with_keys(self, folder: Path, owner: int = OWNER) -> Path:
        """The same, with the state folder in it, and an empty one for the cache beside it."""
        copy = self.copy(folder, owner)
        packed = base64.b64decode(self.state)
        subprocess.run(["tar", "-xz", "-C", copy / "manifests"], input=packed, check=True)
        (folder.parent / "cache").mkdir(exist_ok=True)
        give(copy, owner)
        give(folder.parent / "cache", owner)
        return copy


def give(folder: Path, owner: int) -> None:
    subprocess.run(["chown", "-R", f"{owner}:{owner}", folder], check=True)


def digests(folder: Path) -> dict[str, str]:
    """The tree digest of each node that was built into ``folder``."""
    return {file.stem: json.loads(file.read_text())["tree_digest"] for file in folder.glob("*.json")}


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """podman with a bare Debian 12 as its only image. The Debian's archive is kept in the cache."""
    for program in ("podman", "runc", "mmdebstrap"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not installed: sh scripts/setup scripts/debian-packages-container")
    archive = bare_debian("container", *BOOTSTRAP)
    place = Path(tempfile.mkdtemp(prefix="piimg-engine-"))
    place.chmod(0o755)  # for containers in user namespaces, whose root is nobody on the host
    try:
        yield make_engine(place, archive)
    finally:
        remove(Engine(place))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, specimen: Callable[[str], Path]) -> Iterator[Cluster]:
    """The example cluster of this checkout on a small base image, with two of its nodes built on the host."""
    folder = tmp_path_factory.mktemp("cluster")
    folder.chmod(0o755)
    checkout = folder / "checkout"
    copy_checkout(checkout)
    base = subprocess.run(["zstd", "-q", "-c", specimen("bookworm")], capture_output=True, check=True).stdout
    with serving() as site:
        site.files["/base.img.zst"] = base
        manifests = checkout / "manifests"
        with (manifests / "images.toml").open("a") as stream:
            pin = hashlib.sha256(base).hexdigest()
            stream.write(f'\n[specimen]\nurl = "{site.url}/base.img.zst"\nsha256 = "{pin}"\n')
        text = (manifests / "picluster.toml").read_text()
        (manifests / "picluster.toml").write_text(
            re.sub(r'^base = "[^"]*"', 'base = "specimen"', text, flags=re.MULTILINE)
        )
        yield Cluster(checkout, site, *_built_on_the_host(checkout, folder))


def _built_on_the_host(checkout: Path, folder: Path) -> tuple[str, dict[str, str]]:
    """The state folder, packed as the documents say, and the tree digests."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("PIIMG_", "SUDO_"))}
    env = {**kept, **SECRET, "HOME": str(folder), "PIIMG_CACHE": str(folder / "cache")}
    words = [word for node in NODES for word in ("--node", node)]
    done = subprocess.run(
        command("build", *words, "--output", folder / "built"),
        cwd=checkout,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = (TOP / "docs/containers.md").read_text()
    packing = re.search(r"^ +(tar .*) \| gh secret set PIIMG_STATE$", document, re.MULTILINE)
    assert packing
    packed = subprocess.run(["sh", "-c", packing[1]], cwd=checkout, stdout=subprocess.PIPE, check=True)
    assert len(packed.stdout) < 48 << 10  # what a secret of GitHub may have
    shutil.rmtree(checkout / "manifests" / "state")
    found = digests(folder / "built")
    assert set(found) == set(NODES) and len(set(found.values())) == len(NODES)
    return packed.stdout.decode(), found


@pytest.fixture(scope="session")
def container(engine: Engine, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """piimg's container, built once, from a checkout like the workflow's in which secrets lie about."""
    checkout = cluster.copy(tmp_path_factory.mktemp("context") / "checkout")
    for place in ("manifests/secrets.toml", "manifests/state/picluster/host-keys/worker1", "secrets.toml"):
        (checkout / place).parent.mkdir(parents=True, exist_ok=True)
        (checkout / place).write_text(CANARY)
    engine.good("build", "--tag", IMAGE, checkout)
    return IMAGE
