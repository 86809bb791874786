"""The wheel: `pip install .` gives a piimg that works away from the checkout, overlays and all."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder import __version__
from tests.support.checkout import TOP
from tests.support.judge import said


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    said(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", "--wheel-dir", folder, TOP,
    )  # fmt: skip
    (built,) = folder.glob("piimg-*.whl")
    return built


def test_everything_a_cluster_starts_from_is_inside(wheel: Path) -> None:
    tracked = said("git", "-C", TOP, "ls-files", "overlays", "manifests").split()
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [name for name in tracked if f"imagebuilder/data/{name}" not in names]
    assert tracked and not missing
    assert {"imagebuilder/boot/ask", "imagebuilder/boot/init", "imagebuilder/py.typed"} <= names
    assert {f"imagebuilder/pages/templates/{name}" for name in ("page.css", "sheet.html.j2")} <= names
    given = [name for name in names if "secrets" in name and not name.endswith(".py")]
    assert given == ["imagebuilder/data/manifests/new/secrets.toml"]


def test_it_works_away_from_the_checkout(
    wheel: Path, tmp_path: Path, specimen: Callable[[str], Path]
) -> None:
    home = tmp_path / "installed"
    said(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check",
        "--target", home, wheel,
    )  # fmt: skip
    script = "import imagebuilder, sys; from imagebuilder.cli.main import main; main()"
    env = {
        **os.environ,
        "PYTHONPATH": str(home),
        "PIIMG_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }

    def piimg(*words: str | Path, cwd: Path = tmp_path) -> str:
        argv = [sys.executable, "-c", script, *(str(word) for word in words)]
        done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import imagebuilder; print(imagebuilder.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert str(home) in found.stdout
    assert (home / "bin" / "piimg").exists()
    assert __version__ in piimg("--version")
    piimg("init", "mycluster")
    cluster = tmp_path / "mycluster"
    assert "worker5" in piimg("plan", cwd=cluster)
    assert "worker5" in piimg("sheet", "--output", "-", cwd=cluster)
    assert "raspios-trixie-arm64-lite" in piimg("fetch", "--list", cwd=cluster)
    if os.geteuid() != 0:
        pytest.skip("planned, but building with loop devices needs root")
    piimg("build", "--node", "worker2", "--base", specimen("trixie"), cwd=cluster)
    assert (cluster / "build" / "worker2.img").exists()
