"""Debian packages for booted nodes: fetched by apt, served by the host they take for the internet."""

import hashlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.boot.kernel import KEYRING, MIRROR
from imagebuilder.boot.network import INTERNET, INTERNET_PORT, Service
from tests.system.boot.conftest import CACHE

SERVE = Path(__file__).resolve().with_name("serve.py")
SOURCES = f"deb [trusted=yes] http://{INTERNET}/ ./\n"
"""sources.list of a node that uses the mirror."""


def mirror(status: bytes, suite: str, packages: Sequence[str]) -> Path:
    """A folder with ``packages``, what they depend on, and their index, for nodes with dpkg's ``status``.

    From the cache when it was fetched for the same inputs before.
    """
    digest = hashlib.sha256(b"\0".join([status, suite.encode(), " ".join(packages).encode()])).hexdigest()
    cache = CACHE.of_tests("mirrors")
    folder = cache / f"{suite}-{digest[:16]}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as name:
            served = Path(name) / "served"
            served.mkdir()
            _fetch(Path(name), status, suite, packages)
            _index(Path(name) / "archives", served)
            served.rename(folder)
    return folder


def service(folder: Path) -> Service:
    """The mirror, on port 80 of the host that stands for the internet."""
    return Service(INTERNET_PORT, shlex.join([sys.executable, "-I", str(SERVE), str(folder)]))


def _fetch(work: Path, status: bytes, suite: str, packages: Sequence[str]) -> None:
    """Have apt fetch to ``archives`` what a node would install; the host's own lists stay as they are."""
    for name in ("lists/partial", "archives/partial"):
        (work / name).mkdir(parents=True)
    suites = "\n".join(
        f"deb [signed-by={KEYRING}] {place} main"
        for place in (f"{MIRROR} {suite}", f"{MIRROR}-security {suite}-security")
    )
    (work / "sources.list").write_text(f"{suites}\n")
    (work / "status").write_bytes(status)
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Dir::Cache": work,
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": work / "status",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    subprocess.run(["apt-get", *options, "-qq", "--error-on=any", "update"], check=True)
    subprocess.run(["apt-get", *options, "-qq", "-y", "--download-only", "install", *packages], check=True)


def _index(archives: Path, served: Path) -> None:
    """Move the packages and write ``Packages`` (deb-control(5), and the place, size and digest of each)."""
    stanzas = []
    for found in sorted(archives.glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", found], capture_output=True, text=True, check=True).stdout
        content = found.read_bytes()
        name = found.name.replace("%3a", "_")  # an epoch; a web server would read the escape
        digest = hashlib.sha256(content).hexdigest()
        stanzas.append(f"{control}Filename: ./{name}\nSize: {len(content)}\nSHA256: {digest}\n")
        found.rename(served / name)
    (served / "Packages").write_text("\n".join(stanzas))
