"""A base image whose packages come from a mirror of the test, dressed by root and by an ordinary user."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.base.cache import Cache, sha256_of
from imagebuilder.dressing.dress import Result, dressed
from imagebuilder.dressing.request import Request
from imagebuilder.dressing.store import Store
from imagebuilder.errors import PiimgError
from imagebuilder.events import Silent
from imagebuilder.image import digest
from imagebuilder.image.base.opening import Base, open_base
from imagebuilder.software import BuildScript
from imagebuilder.system import mount
from imagebuilder.system.files import copy_sparse
from tests.conftest import SCRIPTS
from tests.support.checkout import TOP
from tests.support.mirror import Mirror, served
from tests.system.real.test_bases import working_for

SERVICE = """#!/bin/sh
set -e
useradd --system --no-create-home --shell /usr/sbin/nologin {name}
install -d -o {name} -g {name} -m 2750 /var/lib/{name}
if [ -d /run/systemd/system ]; then echo "the host's systemd is here" >&2; exit 9; fi
invoke-rc.d cron start || true
systemctl start nothing.service
"""
SECRETS = """#!/bin/sh
set -e
mkdir -p /etc/munge /etc/ssh /etc/ssl/private
echo key >/etc/munge/munge.key
echo key >/etc/ssh/ssh_host_test_key
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
printf -- '-----BEGIN PRIVATE KEY-----\\n' >/etc/ssl/private/snake.key
if [ "$(ls /sys | wc -l)" -ne 0 ]; then exit 8; fi
for place in /dev /run /tmp /root; do
    mknod $place/piimg-memory c 1 5 || continue  # in a user namespace nobody may
    if head -c 1 $place/piimg-memory; then exit 5; fi
    rm $place/piimg-memory
done
head -c 1 /dev/zero >/dev/null
mkdir /tmp/inner  # the way out of a chroot: chroot(2)
perl -e 'chroot "/tmp/inner"; chdir ".." for 1..20; chroot "."; exit(-e "{host}" ? 1 : 0)' || exit 4
if [ -e /proc/1/root/{host} ]; then exit 3; fi
if echo 1 >/proc/sys/kernel/panic; then exit 7; fi
if (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; then exit 6; fi
"""


@dataclass(frozen=True)
class Bench:
    """A base image whose packages come from a mirror of the test, and a cache."""

    base: Base
    cache: Cache
    mirror: Mirror
    url: str

    def dress(self, *packages: str, scripts: tuple[BuildScript, ...] = (), stop: bool = False) -> Result:
        event = threading.Event()
        if stop:
            event.set()
        return dressed(self.base, Request(tuple(sorted(packages)), scripts), self.cache, Silent(), event)

    def refused(self, *packages: str, scripts: tuple[BuildScript, ...] = ()) -> PiimgError:
        """Dress, which must fail and leave nothing."""
        with pytest.raises(PiimgError) as refused:
            self.dress(*packages, scripts=scripts)
        self.check_nothing_is_left(Request(tuple(sorted(packages)), scripts))
        return refused.value

    def check_nothing_is_left(self, request: Request) -> None:
        key = request.key(self.base.digest)
        left = {path.name for path in Store(self.cache).folder.iterdir() if key in path.name}
        assert left <= {f"{key}.lock", f"{key}.log"}
        assert working_for(self.cache.folder) == []
        assert str(self.cache.folder) not in Path("/proc/self/mountinfo").read_text()


@contextlib.contextmanager
def made_bench(release: str, folder: Path) -> Iterator[Bench]:
    """A Bench for a release in the empty ``folder``."""
    file = folder / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", release, file], check=True)
    site = folder / "site"
    site.mkdir()
    mirror = Mirror(site)
    with served(site) as url:
        port = url.rsplit(":", 1)[1]
        mirror.add("piimg-one", scripts={"postinst": SERVICE.format(name="pione")})
        mirror.add("piimg-two", scripts={"postinst": SERVICE.format(name="pitwo")})
        mirror.add("piimg-top", {"Depends": "piimg-one"}, {"/usr/bin/piimg-top": "#!/bin/sh\n"})
        mirror.add(
            "piimg-secrets",
            scripts={"postinst": SECRETS.replace("/bin/sh", "/bin/bash").format(port=port, host=folder)},
        )
        mirror.add(
            "piimg-bad",
            scripts={"postinst": "#!/bin/sh\necho the disk is made of cheese >&2\nprintf .\nexit 3\n"},
        )
        mirror.add("piimg-alone", {"Depends": "piimg-nowhere"})
        mirror.add("piimg-large", {"Installed-Size": str(1 << 40)})
        mirror.add("piimg-this", {"Conflicts": "piimg-that"})
        mirror.add("piimg-that", {"Provides": "piimg-what"})
        opened = opened_with(file, f"deb [trusted=yes] {url} ./\n", folder)
        yield Bench(opened, Cache(folder / "cache"), mirror, url)


def opened_with(file: Path, sources: str, folder: Path) -> Base:
    """The base with other sources of packages."""
    opened = open_base(file, "the base", "0" * 64, Silent())
    with mount.ext4(file, opened.root.start, opened.root.size) as point:
        shutil.rmtree(point / "etc/apt/sources.list.d", ignore_errors=True)
        (point / "etc/apt/sources.list").write_text(sources)
    return open_base(file, "the base", sha256_of(file), Silent(), index=folder / "base.known")


def records_of(image: Path) -> digest.Records:
    """The records of the root partition, of which the tree digest is made."""
    opened = open_base(image, "x", "0" * 64, Silent())
    with mount.ext4(image, opened.root.start, opened.root.size, read_only=True) as point:
        return digest.records_of(digest.walk_root(point))


def tree_of(result: Result) -> str:
    """The tree digest of the root partition."""
    return digest.digest(records_of(result.path))


def python_for_all() -> str:
    """A Python of this version that a user without rights may run."""
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        done = subprocess.run([*AS_NOBODY, candidate, "-c", AGAIN], capture_output=True, check=False)
        if done.returncode == 0:
            return candidate
    raise AssertionError("no Python that nobody may run: install that of Debian, or make the home readable")


AGAIN = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import json'], check=True)"
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
PREPARED = (
    "mount --bind {numbers} /etc/subuid && mount --bind {numbers} /etc/subgid && "
    'cd {folder} && exec env HOME={folder} TMPDIR=/tmp PYTHONPATH={path} "$@"'
)


@contextlib.contextmanager
def for_nobody(bench: Bench) -> Iterator[tuple[Path, Callable[[str], list[str]]]]:
    """A folder of nobody with the base image, and the command line that runs Python code as nobody.

    nobody has a range of numbers in /etc/subuid there.
    """
    folder = Path(tempfile.mkdtemp(prefix="piimg-nobody-"))  # pytest's own is closed to nobody
    try:
        numbers, base = folder / "numbers", folder / "base.img"
        numbers.write_text("nobody:200000:65536\n")
        copy_sparse(bench.base.file, base)
        for owned in (folder, base):
            os.chown(owned, 65534, 65534)
        path = ":".join([str(TOP), *(entry for entry in sys.path if entry.endswith("site-packages"))])
        prepared = PREPARED.format(numbers=numbers, folder=folder, path=path)
        words = ["unshare", "--mount", "sh", "-c", prepared, "sh", *AS_NOBODY, python_for_all(), "-c"]
        yield folder, lambda code: [*words, code]
    finally:
        shutil.rmtree(folder)
