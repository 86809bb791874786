"""A release: the same bytes each time, and a wheel that pip installs on each Debian and each Python."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import TOP
from tests.support.debian import bare_debian
from tests.system.install.bare import Bare

pytestmark = [pytest.mark.timeout(1800), pytest.mark.install]

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
USED = "piimg --version; piimg init c; cd c; piimg plan --json | grep -q worker5"
PYTHONS = {"bookworm": "3.11", "trixie": "3.13", "forky": "3.14"}
"""The Python of each Debian; forky is in testing, and gets it by name."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The release of the newest commit, made twice: in other places, with another time zone and umask."""
    commit = subprocess.run(
        ["git", "-c", f"safe.directory={TOP}", "-C", TOP, "rev-parse", "HEAD"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    folders = []
    for zone, mask in (("UTC", 0o022), ("Pacific/Auckland", 0o077)):
        folder = tmp_path_factory.mktemp("release")
        subprocess.run(
            [sys.executable, TOP / "scripts/make-release", commit, folder],
            env={**os.environ, "TZ": zone, "TMPDIR": str(tmp_path_factory.mktemp("work"))},
            umask=mask,
            check=True,
        )
        folders.append(folder)
    one, another = folders
    return one, another


def test_the_same_commit_gives_the_same_bytes(made: tuple[Path, Path]) -> None:
    one, another = ((folder / "SHA256SUMS").read_text() for folder in made)
    assert one == another
    listed = {name: digest for digest, name in (line.split("  ") for line in one.splitlines())}
    names = sorted(path.name for path in made[0].iterdir() if path.name != "SHA256SUMS")
    assert sorted(listed) == names and len(names) == 3
    for name in names:
        assert hashlib.sha256((made[0] / name).read_bytes()).hexdigest() == listed[name]


def test_a_tag_of_another_version_is_refused(tmp_path: Path) -> None:
    git = ["git", "-c", f"safe.directory={TOP}", "-C", str(TOP)]
    subprocess.run([*git, "tag", "v99.0.0", "HEAD"], check=True)
    try:
        words = [sys.executable, str(TOP / "scripts/make-release"), "v99.0.0", str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        subprocess.run([*git, "tag", "--delete", "v99.0.0"], check=True)
    assert done.returncode == 1 and "v99.0.0 has the version" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module", params=list(PYTHONS))
def debian(
    made: tuple[Path, Path], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bare]:
    """A bare Debian with its Python, and the wheel in its root folder."""
    place = tmp_path_factory.mktemp("wheel")
    root, extra = place / "root", place / "extra"
    root.mkdir()
    extra.mkdir()
    python = f"python{PYTHONS[request.param]}"
    packages = f"--include={python},{python}-dev,{python}-venv"
    late = "--aptopt=Acquire::Check-Valid-Until false"  # a mirror may be behind with what is in testing
    archive = bare_debian(f"wheel-{request.param}", packages, late, suite=request.param)
    subprocess.run(["tar", "-x", "-p", "--numeric-owner", "-f", archive, "-C", root], check=True)
    (wheel,) = made[0].glob("*.whl")
    shutil.copy(wheel, extra)
    if CERTIFICATES.exists():  # this machine may be behind a proxy with a certificate of its own
        (extra / "etc").mkdir()
        shutil.copy(CERTIFICATES, extra / "etc/host.crt")
        (extra / "etc/pip.conf").write_text("[global]\ncert = /etc/host.crt\n")
    (root / "usr/local/bin/python3").symlink_to(f"/usr/bin/{python}")
    yield Bare((extra, root), place / "bare")
    shutil.rmtree(place)


def test_pip_installs_the_wheel_on_a_bare_debian(debian: Bare) -> None:
    """By the lines of the README, with the wheel in place of the checkout."""
    packages = re.findall(r"^    sudo apt-get install (.+)$", (TOP / "README.md").read_text(), re.MULTILINE)
    debian.good("apt-get update -qq")
    for line in packages:
        debian.good(f"apt-get install -y -qq --no-install-recommends {line}")
    debian.good("python3 -m venv /opt/piimg; /opt/piimg/bin/pip install -q /piimg-*.whl")
    debian.good(f"export PATH=/opt/piimg/bin:$PATH; {USED}")


def test_the_wheel_runs_on_the_python_that_no_debian_has(made: tuple[Path, Path], tmp_path: Path) -> None:
    names = ["python3.12", *map(str, sorted(Path.home().glob(".pyenv/versions/3.12.*/bin/python")))]
    python = next((name for name in names if _runs(name)), None)
    if python is None:
        pytest.skip("this machine has no Python 3.12")
    (wheel,) = made[0].glob("*.whl")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([tmp_path / "venv/bin/pip", "install", "-q", wheel], check=True)
    env = {**os.environ, "PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}"}
    words = ["bash", "-ec", USED]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _runs(python: str) -> bool:
    """Whether it is there, and not only a script of pyenv that would run it."""
    try:
        return subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
