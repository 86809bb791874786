"""The scenarios without throttled cards: unpacking a base image, building node images, one fast card."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.cards import rig
from bench.context import Bench, Failed, check, median, piimg
from bench.flashing import GB
from bench.images import NODES, Images, warm
from bench.measure import Run, Words, run
from bench.throttle import Speed
from imagebuilder.base.cache import sha256_of
from imagebuilder.image import bmap
from imagebuilder.system.process import locate
from imagebuilder.system.process import run as tool

ROUNDS = 3  # of each, alternating; the median is reported


def unpack(bench: Bench) -> None:
    """Unpacking the base image from .xz, compared with xz and sha256sum in a pipe."""
    made = bench.images()
    cache = bench.work / "fresh-cache"
    checksum = sha256_of(made.packed)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(
            _run(bench, made, "unpack", ["sh", "-c", 'xz -dc -T0 "$1" | sha256sum', "sh", made.packed])
        )
        fetching = piimg(made, "fetch", made.packed, "--sha256", checksum)
        try:
            ours.append(_run(bench, made, "unpack", fetching, PIIMG_CACHE=str(cache)))
        finally:
            shutil.rmtree(cache, ignore_errors=True)
    reference = median(theirs)
    bench.add("unpack", "xz -dc -T0 | sha256sum", reference, 0)
    bench.add(
        "unpack", "piimg fetch of the .xz", median(ours), 0,
        reference=reference.seconds, to="xz | sha256sum", target=1.10,
    )  # fmt: skip


def build(bench: Bench) -> None:
    """One node built from the cached base, compared with a plain copy of the base."""
    made = bench.images()
    base = made.cached
    copy, output = bench.work / "copy", bench.work / "built"
    plain, synced, ours = [], [], []
    for _ in range(ROUNDS):
        with _gone(copy):
            plain.append(_run(bench, made, "build", ["cp", "--sparse=always", base, copy]))
        with _gone(copy):
            script = 'cp --sparse=always "$1" "$2" && sync "$2"'
            synced.append(_run(bench, made, "build", ["sh", "-c", script, "sh", base, copy]))
        with _gone(output):
            shutil.rmtree(made.prepared, ignore_errors=True)
            ours.append(_run(bench, made, "build", _build(made, output)))
    reference = median(plain)
    bench.add("build", "cp --sparse=always of the base", reference, 0)
    bench.add("build", "the same, and on the disk (sync)", median(synced), 0)
    bench.add(
        "build", "piimg build of one node", median(ours), 0, reference=reference.seconds, to="cp", target=1.3,
        note=f"{median(ours).seconds / median(synced).seconds:.2f} of cp and sync",
    )  # fmt: skip


def reflink(bench: Bench) -> None:
    """One node built where blocks can be shared: on xfs and on btrfs."""
    made = bench.images()
    for kind, maker in (("xfs", ["mkfs.xfs", "-q"]), ("btrfs", ["mkfs.btrfs", "-q"])):
        if kind not in Path("/proc/filesystems").read_text().split() or not locate(maker[0]):
            raise Failed(f"this machine cannot make {kind}: no support in the kernel, or no {maker[0]}")
        disk = bench.work / f"{kind}-disk"
        with _gone(disk), disk.open("wb") as stream:
            stream.truncate(4 * bench.size.image)
            tool([*maker, disk])
            with _mounted(disk, bench.work / kind, ["loop"]) as point:
                shutil.copytree(made.cache, point / "cache", ignore=shutil.ignore_patterns("*.img"))
                for base in (made.cache / "bases").glob("*.img"):
                    kept = point / "cache" / "bases" / base.name
                    tool(["cp", "--sparse=always", "--preserve=all", base, kept])
                _build_at(bench, made, point, kind)


def _build_at(bench: Bench, made: Images, point: Path, kind: str) -> None:
    runs = []
    for number in range(ROUNDS):
        shutil.rmtree(made.prepared, ignore_errors=True)
        words = _build(made, point / f"built{number}")
        runs.append(_run(bench, made, "reflink", words, PIIMG_CACHE=str(point / "cache")))
    bench.add(
        "reflink", f"piimg build of one node on {kind}", median(runs), 0, reference=2.0, to="2 s", target=1.0
    )


def jobs(bench: Bench) -> None:
    """Six nodes built two at a time, compared with one after the other."""
    made = bench.images()
    output = bench.work / "built"
    took: dict[int, list[Run]] = {1: [], 2: []}
    for count in (1, 2, 1, 2):
        with _gone(output):
            shutil.rmtree(made.prepared, ignore_errors=True)
            words = piimg(made, "build", "--all", "--jobs", str(count), "--output", output)
            took[count].append(_run(bench, made, "jobs", words))
    row, pair = (median(took[count]) for count in (1, 2))
    bench.add("jobs", "piimg build of six, one after the other", row, 0)
    bench.add(
        "jobs", "piimg build of six, --jobs 2", pair, 0, reference=row.seconds, to="one by one", target=1.0
    )


def unthrottled(bench: Bench) -> None:
    """One card as fast as memory: the speed of piimg itself, compared with dd writing the same bytes."""
    made = bench.images()
    image = made.built / f"{NODES[1]}.img"
    point = bench.work / "memory"
    with _mounted(Path("tmpfs"), point, ["size=16G"]), contextlib.ExitStack() as stack:
        used = point / "used"
        warm(image)
        _only_used(image, used)
        stack.callback(used.unlink)
        ours, theirs, reports = [], [], []
        for _ in range(ROUNDS):
            with rig(point / "cards", [Speed(0, 0)]) as cards:
                if Path(f"/sys/block/{cards.cards[0].device.name}/loop/dio").read_text().strip() != "1":
                    raise Failed("a loop device on tmpfs has no direct I/O with this kernel")
                device = cards.devices[0]
                script = 'dd if="$1" of="$2" bs=4M oflag=direct conv=fsync status=none'
                theirs.append(_run(bench, made, "unthrottled", ["sh", "-c", script, "sh", used, device]))
            with rig(point / "cards", [Speed(0, 0)]) as cards:
                report = bench.work / "report"
                words: Words = ["flash", "--image", image, "--virtual", "--yes", "--report", report]
                ours.append(_run(bench, made, "unthrottled", piimg(made, *words, *cards.devices)))
                reports.append(json.loads(report.read_text())["cards"][0])
    reference, best = median(theirs), median(ours)
    report = reports[ours.index(best)]
    if report["verdict"] != "good":
        raise Failed(f"the card is {report['verdict']}: {report['error']}")
    bench.add("unthrottled", "dd bs=4M oflag=direct of the used bytes", reference, made.used / GB)
    writing = report["written"] / report["write_rate"]
    bench.add(
        "unthrottled", "piimg, one card, writing", best, made.used / GB, seconds=writing,
        reference=reference.seconds, to="dd", target=1 / 0.9,
        note=f"with start and read-back {best.seconds:.2f} s; read back at "
        f"{report['read_rate'] / 1e9:.2f} GB/s",
    )  # fmt: skip


def _only_used(image: Path, target: Path) -> None:
    """The bytes of an image that are in use, one after the other."""
    with image.open("rb") as source, target.open("wb") as stream:
        for piece in bmap.read(image.with_suffix(".bmap")):
            source.seek(piece.start)
            stream.write(source.read(piece.size))


def _build(made: Images, output: Path) -> Words:
    return piimg(made, "build", "--node", NODES[1], "--output", output)


def _run(bench: Bench, made: Images, name: str, command: Words, **env: str) -> Run:
    os.sync()  # data of the previous run must not be written during the measurement
    return check(run([command], bench.log(name), env={**made.env, **env}), name)


@contextlib.contextmanager
def _gone(path: Path) -> Iterator[None]:
    """Remove ``path`` at the end, file or folder."""
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _mounted(what: Path, point: Path, options: Sequence[str]) -> Iterator[Path]:
    """Mount a file, or a tmpfs, at ``point``, a folder made for it."""
    point.mkdir(exist_ok=True)
    kind = ["-t", "tmpfs"] if str(what) == "tmpfs" else []
    tool(["mount", *kind, "-o", ",".join(options), what, point])
    try:
        yield point
    finally:
        tool(["umount", point])
        point.rmdir()
