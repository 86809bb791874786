"""The scenario of packages: processor time of a dressed base, beside apt-get in a chroot as by hand."""

import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.context import Bench, check, median
from bench.images import MIB, TOP
from bench.measure import Run, Words, run
from imagebuilder.events import Silent
from imagebuilder.image.base.opening import open_base
from imagebuilder.image.grow import grow, space_in
from imagebuilder.system.files import copy_sparse

HERE = Path(__file__).resolve().parent
DOCKER = {"bookworm": ("docker.io",), "trixie": ("docker.io", "docker-cli")}
MANY = ("docker.io", "docker-cli", "nfs-kernel-server", "chrony", "munge", "slurm-wlm")
"""With what they need: 45 packages on trixie."""
ROUNDS = 2  # of each, alternating; the mean is reported
_FREE = 1500 * MIB  # bytes for the packages, in the copy that is changed by hand
_PROCESSOR = "cortex-a72"  # of QEMU: the default one of QEMU 7.2 needs up to 16 times as long
_DOCKER_MOST = 30.0  # core-seconds
_MANY_MOST = 0.7  # of apt-get in a chroot


def packages(bench: Bench) -> None:
    """A base with docker.io of two releases, and with 45 packages, beside apt-get in a chroot."""
    folder = bench.work / "packages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        for release, names in DOCKER.items():
            base = _base(bench, folder, release)
            ours, theirs = _compared(bench, base, f"docker.io, {release}", names)
            note = f"apt-get in a chroot: {theirs:.1f}"
            bench.aim(f"docker.io on {release}, CPU", "core-s", None, ours, _DOCKER_MOST, note)
        ours, theirs = _compared(bench, base, "45 packages, trixie", MANY)
        note = f"{ours:.1f} core-s; apt-get in a chroot {theirs:.1f}"
        bench.aim("45 packages on trixie, CPU", "of apt-get", None, ours / theirs, _MANY_MOST, note)
    finally:
        shutil.rmtree(folder)


def _base(bench: Bench, folder: Path, release: str) -> Path:
    file = folder / f"{release}.img"
    make: Words = [TOP / "scripts" / "make-debian-base", release, file]
    check(run([make], bench.log("packages")), "make-debian-base")
    return file


def _compared(bench: Bench, base: Path, what: str, names: tuple[str, ...]) -> tuple[float, float]:
    """Core-seconds of piimg and of apt-get in a chroot; the packages are downloaded before by both."""
    copy, downloaded = base.with_suffix(".copy"), base.with_suffix(".downloaded")
    copy_sparse(base, downloaded)
    root = open_base(downloaded, base.name, "0" * 64, Silent()).root
    grow(downloaded, root, space_in(downloaded, root), _FREE, 0)
    env = {"QEMU_CPU": _PROCESSOR}

    def by_hand(step: str, image: Path) -> Run:
        alone: Words = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        words: Words = [*alone, HERE / "apt-in-chroot", step, image, str(root.start), *names]
        return check(run([words], bench.log(f"packages-{step}"), env=env), f"apt-get {step}")

    def by_piimg() -> Run:
        words: Words = [sys.executable, HERE / "dress.py", base, base.parent / "cache", *names]
        return check(run([words], bench.log("packages-dress")), "dress.py")

    by_hand("download", downloaded)
    by_piimg()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        copy_sparse(downloaded, copy)
        theirs.append(by_hand("install", copy))
        copy.unlink()
        ours.append(by_piimg())
    downloaded.unlink()
    return _mean(bench, f"piimg, {what}", ours), _mean(bench, f"apt-get in a chroot, {what}", theirs)


def _mean(bench: Bench, what: str, runs: Sequence[Run]) -> float:
    cpu = statistics.mean(one.cpu for one in runs)
    bench.add("packages", what, median(runs), 0, note=f"{cpu:.1f} core-s")
    return cpu
