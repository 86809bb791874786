"""The scenarios from a manifest to nodes that can be written: time, processor time and disk."""

import os
import shutil
import sys

from bench.context import Bench, check, piimg
from bench.images import DIRECT, MIB, Images, warm
from bench.measure import Run, Words, run
from bench.older import COMMIT, older_cluster

_ROUNDS = 3  # of each, alternating; the quickest is used
_NODES = 100
GIB = 1 << 30  # bytes


def prepare(bench: Bench) -> None:
    """Six nodes from a base in the cache, prepared; the older build makes whole images of them."""
    made = bench.images()
    its = older_cluster(bench, made)
    warm(its.cached)
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(_prepared(bench, made))
        theirs.append(_whole(bench, its))
    whole = _whole(bench, made)
    best, old = (min(runs, key=lambda one: one.seconds) for runs in (ours, theirs))
    text = "{:.2f} core-s; disk {:.1f} MiB, at most {:.1f} meanwhile"
    for what, done in (
        ("piimg prepares six nodes", best),
        ("piimg build --all, whole images", whole),
        (f"piimg {COMMIT} build --all", old),
    ):
        left, most = (size / MIB for size in reversed(done.disk))
        bench.add(
            "prepare", what, done, 0, note=text.format(done.cpu, left, most),
            reference=0.0 if done is old else old.seconds, to="older",
            target=0.3 if done is best else None,
        )  # fmt: skip
    for name, mine, before, unit in (
        ("wall", best.seconds, old.seconds, "s"),
        ("CPU", min(our.cpu for our in ours), min(their.cpu for their in theirs), "core-s"),
    ):
        what = f"six nodes from a base in the cache, {name}"
        bench.aim(what, "of the older", 1, mine / before, 0.3, f"{mine:.2f} {unit}; older {before:.2f}")
    note = f"{best.disk[0] / MIB:.1f} MiB at most meanwhile; older {old.disk[0] / MIB:.0f}"
    what = "disk for six nodes beyond the base"
    bench.aim(what, "MiB", old.disk[1] / MIB, best.disk[1] / MIB, 100, note)


def hundred(bench: Bench) -> None:
    """A manifest of a hundred nodes, prepared; the older build makes six, which are taken for each."""
    made = bench.images()
    with made.many(_NODES):
        done = _prepared(bench, made)
    its = older_cluster(bench, made)
    warm(its.cached)
    old = _whole(bench, its)
    each, before = done.seconds / _NODES, old.seconds / 6
    bench.add(
        "hundred", "piimg prepares 100 nodes", done, 0,
        note=f"{each:.2f} s a node; {done.cpu:.1f} core-s; disk {done.disk[1] / MIB:.0f} MiB, at most "
        f"{done.disk[0] / MIB:.0f} meanwhile",
    )  # fmt: skip
    bench.aim("100 nodes, wall a node", "s", before, each, 1.0, "older: a sixth of six nodes")
    size = old.disk[1] / 6 * _NODES / GIB
    what = "disk for 100 nodes beyond the base"
    bench.aim(what, "GiB", size, done.disk[1] / GIB, 1.2, "older: from six nodes")


def _prepared(bench: Bench, made: Images) -> Run:
    """All nodes of the manifest prepared, none of which was."""
    shutil.rmtree(made.prepared, ignore_errors=True)
    os.sync()  # data of the previous run must not be written during the measurement
    words: Words = [sys.executable, DIRECT, made.manifest]
    return check(run([words], bench.log("prepare"), env=made.env, watched=made.cluster), "prepare")


def _whole(bench: Bench, made: Images) -> Run:
    """Whole images of all nodes of the manifest, none of which was prepared."""
    folder = made.cluster / "whole"
    (state,) = (made.cluster / "state").iterdir()
    shutil.rmtree(state / "prepared", ignore_errors=True)
    os.sync()
    try:
        words = piimg(made, "build", "--all", "--output", folder)
        return check(run([words], bench.log("build"), env=made.env, watched=made.cluster), "piimg build")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
