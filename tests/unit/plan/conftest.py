"""Cluster folders that piimg lays out."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import EXAMPLE, EXAMPLE_PASSPHRASE
from tests.unit.plan.running import NOBODY, PIIMG, dropping


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user piimg runs as (pytest's own is closed to nobody)."""
    folder = Path(tempfile.mkdtemp(prefix="piimg-test-"))
    if f"--reuid={NOBODY}" in dropping():
        os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster folder as `piimg init` lays it out, with the values of the example cluster."""
    folder = tmp_path_factory.mktemp("laid-out") / "mine"
    subprocess.run(
        [PIIMG, "init", folder, *EXAMPLE],
        input=EXAMPLE_PASSPHRASE.encode(),
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.parent)},
        capture_output=True,
        check=True,
    )
    return folder


@pytest.fixture
def cluster(home: Path, laid_out: Path) -> Path:
    """A cluster folder with a login password and a secret variable."""
    shutil.copytree(laid_out, home / "mine")
    if f"--reuid={NOBODY}" in dropping():
        for path in (home / "mine", *(home / "mine").rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    file = home / "mine/cluster.toml"
    text = file.read_text().replace("# password =", "password =")
    file.write_text(text.replace("[gateway]", '[vars]\ntoken = { secret = "token" }\n[gateway]'))
    return home / "mine"
