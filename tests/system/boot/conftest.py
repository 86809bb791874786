"""Node images booted in emulation: minutes each, so only `make test-boot` asks for it."""

import shutil
import subprocess
from collections.abc import Callable

import pytest

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.keys import ssh
from tests.conftest import SCRIPTS, releases
from tests.support.certificates import authority
from tests.support.cluster import Place, make_place

RELEASES = releases()
SWAPS = {"bullseye": "256M", "bookworm": "zram", "trixie": "64M"}
"""What the manifest says of worker2's swap, in the way of each release: a file, compressed memory, a file."""

SETTINGS = """journal = "persistent"
ssh_port = 2202
interfaces = ["i2c", "serial"]
mount = [
    { source = "tmpfs", path = "/srv/scratch", type = "tmpfs", options = ["size=16M"] },
    { source = "LABEL=none", path = "/srv/disk", type = "ext4", options = ["x-systemd.device-timeout=5"] },
]"""
"""What the manifest says of worker2 besides."""

TRUSTING = 'ca_certificates = ["home.pem"]\n'
"""And this where the base has Debian's package ca-certificates, as Raspberry Pi OS does: on Trixie."""

LIMITED = 'root_size = "3G"\ndata = "/srv/data"\nlayers = ["read-only-root"]'
"""What it says of worker3."""

ACCOUNT = """[[account]]
name = "anna"
groups = ["sudo", "gpio", "thermometer"]
authorized_keys = ["anna.pub"]
"""

CACHE = Cache(default_folder())
"""The cache that outlives the tests: it has the bases, and the companion kernel."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Place]:
    """``built(release)`` is a cluster folder with images of worker2 and worker3; do not change it."""
    places: dict[str, Place] = {}

    def place(release: str) -> Place:
        if release not in places:
            folder = tmp_path_factory.mktemp(release)
            base = folder / "base.img"
            subprocess.run([SCRIPTS / "make-debian-base", release, base], check=True)
            made = make_place(folder, folder / "cache")
            made.edit(r"^# password = .*", 'password = { secret = "user_password" }')
            own = f"{TRUSTING if release == 'trixie' else ''}{SETTINGS}"
            made.edit(r'^name = "worker2"', f'name = "worker2"\nswap = "{SWAPS[release]}"\n{own}')
            (made.folder / "anna.pub").write_text(f"{ssh.make('anna').public}\n")
            (made.folder / "home.pem").write_bytes(authority("home").pem)
            made.manifest.write_text(f"{made.manifest.read_text()}\n{ACCOUNT}")
            made.edit(r'^name = "worker3"', f'name = "worker3"\n{LIMITED}')
            made.good("build", "--node", "worker2", "--node", "worker3", "--base", base)
            base.unlink()  # gigabytes, as is what the cache keeps of it
            shutil.rmtree(made.cache)
            places[release] = made
        return places[release]

    return place
