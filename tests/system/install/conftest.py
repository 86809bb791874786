"""piimg in bare Debian systems, which takes minutes and mirrors: only `make test-install` asks for it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import TOP, copy_checkout
from tests.support.debian import bare_debian
from tests.system.install.bare import Bare


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bare Debian: what every system has, apt and Python. Its archive is kept in the cache."""
    archive = bare_debian("install", "--include=python3")
    root = tmp_path_factory.mktemp("debian")
    subprocess.run(["tar", "-x", "-p", "--numeric-owner", "-f", archive, "-C", root], check=True)
    (root / "home/alice").mkdir()
    subprocess.run(["chroot", root, "useradd", "--shell", "/bin/bash", "alice"], check=True)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` puts below a DESTDIR."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, TOP / "scripts/make-install", "/usr/local", folder], check=True)
    return folder


@pytest.fixture
def system(debian: Path, installed: Path, tmp_path: Path) -> Iterator[Bare]:
    """A bare Debian with piimg in /usr/local and nothing that piimg needs."""
    bare = Bare((installed, debian), tmp_path / "bare")
    yield bare
    shutil.rmtree(bare.place)


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two copies of this checkout, in folders whose names differ."""
    one, another = (tmp_path_factory.mktemp(name) / "piimg" for name in ("one", "another-with-a-longer-name"))
    copy_checkout(one)
    shutil.copytree(one, another)
    return one, another
