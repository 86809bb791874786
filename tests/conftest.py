"""Fixtures for every test: the specimens, made at most once for the same inputs."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.system.process import run

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SPECIMENS = ("bullseye", "bookworm", "trixie-2025-10", "trixie")


@pytest.fixture(scope="session")
def specimen() -> Callable[[str], Path]:
    """``specimen(name)`` is the path of that specimen: read-only and shared, so copy it to change it."""
    folder = Path(os.environ.get("PIIMG_CACHE", Path.home() / ".cache" / "piimg")) / "specimens"
    digest = _digest_of_inputs()

    def made(name: str) -> Path:
        image = folder / f"{name}-{digest}.img"
        if not image.exists():
            folder.mkdir(parents=True, exist_ok=True)
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
