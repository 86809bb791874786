"""What is flashed: a base image with real files in it, and the six node images piimg builds from it.

Made once and kept; a folder is named after all that went into it, so that another recipe makes another one.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.fill import RELEASE, make_base
from imagebuilder.base.cache import sha256_of
from imagebuilder.system import files
from imagebuilder.system.process import environment

TOP = Path(__file__).resolve().parents[2]
PIIMG = Path(sys.executable).with_name("piimg")
MIB = 1 << 20  # bytes
NODES = ("master", "worker1", "worker2", "worker3", "worker4", "worker5")

_NAME = "bench"  # of the base image in images.toml
_OLD, _NEW = "10.0.0.11", "10.0.0.41"  # the address of worker1, before and after the change


@dataclass(frozen=True)
class Size:
    """How large the image is and how much of it is in use, in bytes."""

    name: str
    image: int
    used: int


FULL = Size("full", 2936 * MIB, 1680 * MIB)
SMALL = Size("small", 1024 * MIB, 420 * MIB)


@dataclass(frozen=True)
class Images:
    """The base image, the same packed by xz, and a cluster folder with the six nodes built from it."""

    base: Path
    packed: Path
    cluster: Path
    used: int = 0  # bytes in use, of the node image that has most

    @property
    def cache(self) -> Path:
        """piimg's cache, with the base image in it."""
        return self.cluster / "cache"

    @property
    def env(self) -> dict[str, str]:
        """What piimg needs in its environment."""
        return {"PIIMG_CACHE": str(self.cache), "PIIMG_SECRET_WIFI_PSK": "benchmark"}

    @property
    def built(self) -> Path:
        """The folder of the six nodes."""
        return self.cluster / "build"

    @property
    def changed(self) -> Path:
        """The folder of the six after a change: another address of worker1, which is in every node's
        /etc/hosts, and one more file in the overlay."""
        return self.cluster / "changed"

    def warm(self) -> None:
        """Read the node images into the page cache, as after a build, for equal conditions."""
        for image in (*self.built.glob("*.img"), *self.changed.glob("*.img")):
            with image.open("rb", buffering=0) as stream:
                handle = stream.fileno()
                for low, high in files.data_ranges(handle, 0, os.fstat(handle).st_size):
                    for start in range(low, high, 4 * MIB):
                        os.pread(handle, min(4 * MIB, high - start), start)


def images(work: Path, size: Size) -> Images:
    """The images of this size; made if they are not there."""
    kept = _kept(
        work / "images",
        size.name,
        _digest(_recipe(), size),
        lambda folder: make_base(folder / "base.img", size.image, size.used),
    )
    base, packed = kept / "base.img", kept / "base.img.xz"
    cluster = _kept(kept, "cluster", _digest(_program()), lambda folder: _make_nodes(folder, base, packed))
    documents = [json.loads((cluster / "build" / f"{node}.json").read_text()) for node in NODES]
    return Images(base, packed, cluster, max(int(document["image"]["used"]) for document in documents))


def _kept(top: Path, name: str, digest: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name``-``digest`` in ``top``; made by ``make`` if need be, in place of older ones."""
    folder = top / f"{name}-{digest}"
    if not folder.exists():
        for old in top.glob(f"{name}-*"):
            shutil.rmtree(old)
        print(f"bench: making {folder}; it is kept for the next time", file=sys.stderr)
        making = top / f"{name}-making"
        making.mkdir(parents=True)
        make(making)
        making.rename(folder)  # only a complete folder gets its name
    return folder


def _digest(paths: Iterable[Path], *more: object) -> str:
    """Of the content of ``paths`` and of what else matters."""
    total = hashlib.sha256(repr(more).encode())
    for path in paths:
        if path.is_file() and path.suffix != ".pyc":
            total.update(f"{path.relative_to(TOP)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def _recipe() -> list[Path]:
    """The files that decide what the base image holds."""
    scripts = TOP / "scripts"
    return [scripts / "bench" / "fill.py", scripts / "make-specimen", *sorted((scripts / "bases").rglob("*"))]


def _program() -> list[Path]:
    """The files that decide what a node image holds."""
    wings = ("imagebuilder/image", "imagebuilder/overlay", "imagebuilder/base", "overlays", "manifests")
    return [file for folder in wings for file in sorted((TOP / folder).rglob("*"))]


def _make_nodes(folder: Path, base: Path, packed: Path) -> None:
    """Do what a user does: a cluster folder, the base into the cache, all nodes built; a change; again."""
    made = Images(base, packed, folder)
    cluster = folder / "bench"
    _piimg(made, folder, "init", cluster)
    for path in cluster.iterdir():
        path.rename(folder / path.name)
    cluster.rmdir()
    manifest = folder / "cluster.toml"
    text = manifest.read_text().splitlines()
    text = [f'base = "{_NAME}"' if line.startswith("base =") else line for line in text]
    manifest.write_text("\n".join(text) + "\n")
    (folder / "images.toml").write_text(
        f'[{_NAME}]\nurl = "https://bench.invalid/{packed.name}"\n'
        f'sha256 = "{sha256_of(packed)}"\n'
        f'date = 2026-10-06\nrelease = "{RELEASE}"\narchitecture = "arm64"\n'
    )
    _piimg(made, folder, "fetch", packed)
    _piimg(made, folder, "build", "--all")
    before, overlay = manifest.read_text(), folder / "overlays" / "base" / "root" / "etc" / "bench"
    manifest.write_text(before.replace(_OLD, _NEW))
    overlay.write_text("one more file\n")
    _piimg(made, folder, "build", "--all", "--output", made.changed)
    manifest.write_text(before)
    overlay.unlink()


def _piimg(made: Images, folder: Path, *words: str | Path) -> None:
    subprocess.run(
        [PIIMG, *words], cwd=folder, env=environment(made.env), check=True, stdout=subprocess.DEVNULL
    )
