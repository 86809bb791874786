"""What is flashed: a base image with real files in it, and a cluster of six nodes made from it.

Made once and kept; a folder is named after all that went into it, so that another recipe makes another one.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.fill import RELEASE, make_base
from imagebuilder.base.cache import sha256_of
from imagebuilder.system import files
from imagebuilder.system.process import environment
from imagebuilder.system.process import run as tool

TOP = Path(__file__).resolve().parents[2]
PIIMG = Path(sys.executable).with_name("piimg")
DIRECT = Path(__file__).with_name("direct.py")
MIB = 1 << 20  # bytes
NODES = ("master", "worker1", "worker2", "worker3", "worker4", "worker5")

_NAME = "bench"  # of the base image in images.toml
_OLD, _NEW = "10.0.0.11", "10.0.0.41"  # the address of worker1, before and after the change


@dataclass(frozen=True)
class Size:
    """How large the image is, how much of it is in use, in bytes, and about how many files it has."""

    name: str
    image: int
    used: int
    count: int


FULL = Size("full", 2936 * MIB, 1680 * MIB, 60000)  # as Raspberry Pi OS Lite
SMALL = Size("small", 1024 * MIB, 420 * MIB, 15000)


@dataclass(frozen=True)
class Images:
    """The base image, and a cluster folder with six nodes.

    ``program`` is the piimg of this cluster: another build has its own.
    """

    base: Path
    cluster: Path
    program: Path = PIIMG
    used: int = 0  # bytes in use, of the node that has most

    @property
    def packed(self) -> Path:
        """The base image packed by xz; made if it is not there."""
        file = self.base.with_name(f"{self.base.name}.xz")
        if not file.exists():
            tool(["xz", "-T0", "-3", "--keep", self.base])
        return file

    @property
    def cache(self) -> Path:
        """piimg's cache, with the base image in it."""
        return self.cluster / "cache"

    @property
    def env(self) -> dict[str, str]:
        """What piimg needs in its environment."""
        return {"PIIMG_CACHE": str(self.cache), "PIIMG_SECRET_WIFI_PSK": "benchmark"}

    @property
    def manifest(self) -> Path:
        """The manifest of the cluster."""
        return self.cluster / "cluster.toml"

    @property
    def cached(self) -> Path:
        """The base image in piimg's cache."""
        (image,) = (self.cache / "bases").glob("*.img")
        return image

    @property
    def prepared(self) -> Path:
        """The folder of the prepared nodes."""
        (state,) = (self.cluster / "state").iterdir()
        return state / "prepared"

    @property
    def built(self) -> Path:
        """The folder of the whole images of the six nodes; built if they are not there."""
        folder = self.cluster / "build"
        if not (folder / f"{NODES[-1]}.json").exists():
            self.piimg("build", "--all")
        return folder

    def prepare(self) -> int:
        """Prepare all nodes that are not up to date. Gives ``used`` of them."""
        words: list[str | Path] = [sys.executable, DIRECT, self.manifest]
        done = subprocess.run(words, env=environment(self.env), check=True, capture_output=True)
        return int(done.stdout)

    def piimg(self, *words: str | Path) -> None:
        """Run piimg in the cluster folder."""
        subprocess.run(
            [self.program, *words],
            cwd=self.cluster,
            env=environment(self.env),
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @contextlib.contextmanager
    def changed(self) -> Iterator[None]:
        """A change: worker1 has another address, which is in every node's /etc/hosts, and a layer has one
        file more."""
        overlay = self.cluster / "overlays" / "base" / "root" / "etc" / "bench"
        with self._edited(self.manifest.read_text().replace(_OLD, _NEW)):
            overlay.write_text("one more file\n")
            try:
                yield
            finally:
                overlay.unlink()

    @contextlib.contextmanager
    def many(self, count: int) -> Iterator[None]:
        """The manifest with ``count`` nodes instead of six."""
        more = (
            f'\n[[node]]\nname = "worker{number}"\nrole = "worker"\nboard = "pi-3b+"\n'
            f'address = "10.0.0.{100 + number}"\n'
            for number in range(len(NODES), count)
        )
        with self._edited(self.manifest.read_text() + "".join(more)):
            yield

    @contextlib.contextmanager
    def _edited(self, text: str) -> Iterator[None]:
        before = self.manifest.read_text()
        self.manifest.write_text(text)
        try:
            yield
        finally:
            self.manifest.write_text(before)


def warm(*paths: Path) -> None:
    """Read files into the page cache, for equal conditions."""
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            handle = stream.fileno()
            for low, high in files.data_ranges(handle, 0, os.fstat(handle).st_size):
                for start in range(low, high, 4 * MIB):
                    os.pread(handle, min(4 * MIB, high - start), start)


def drop(*paths: Path) -> None:
    """Drop files from the page cache."""
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())  # what is not on the disk cannot be dropped
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def images(work: Path, size: Size) -> Images:
    """The images of this size; made if they are not there."""
    kept = kept_folder(
        work / "images",
        size.name,
        _digest(_recipe(), size),
        lambda folder: make_base(folder / "base.img", size.image, size.used, size.count),
    )
    base = kept / "base.img"

    def make(folder: Path) -> None:
        made = Images(base, folder)
        make_cluster(made)
        (folder / "used").write_text(str(made.prepare()))

    cluster = kept_folder(kept, "cluster", _digest(_program()), make)
    return Images(base, cluster, used=int((cluster / "used").read_text()))


def kept_folder(top: Path, name: str, digest: str, make: Callable[[Path], None]) -> Path:
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
    folders = ("imagebuilder/image", "imagebuilder/overlay", "imagebuilder/base", "overlays", "manifests")
    return [file for folder in folders for file in sorted((TOP / folder).rglob("*"))]


def make_cluster(made: Images) -> None:
    """Do what a user does: a cluster folder, and the base into the cache."""
    folder = made.cluster
    cluster = folder / "bench"
    made.piimg("init", cluster)
    for path in cluster.iterdir():
        path.rename(folder / path.name)
    cluster.rmdir()
    # The same manifest for the older build, whose init asks nothing.
    text = (TOP / "manifests" / "picluster.toml").read_text().splitlines()
    text = [f'base = "{_NAME}"' if line.startswith("base =") else line for line in text]
    made.manifest.write_text("\n".join(text) + "\n")
    (folder / "images.toml").write_text(
        f'[{_NAME}]\nurl = "https://bench.invalid/{made.base.name}"\n'
        f'sha256 = "{sha256_of(made.base)}"\n'
        f'date = 2026-10-06\nrelease = "{RELEASE}"\narchitecture = "arm64"\n'
    )
    made.piimg("fetch", made.base)
