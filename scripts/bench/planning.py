"""The scenario of plans: time and memory for a hundred nodes, and the differences of six."""

from bench.context import Bench, check, median, piimg
from bench.images import MIB, Images
from bench.measure import Run, run
from bench.older import COMMIT, older_cluster

_ROUNDS = 5  # of each; the median is used
_NODES = 100
_SECONDS, _MEMORY = 2.0, 150  # the targets: seconds, and MiB
_DIFF_SECONDS = 1.0


def plan(bench: Bench) -> None:
    """`piimg plan` of 100 nodes, and `piimg plan --diff` of six after a change; also of an older build."""
    made = bench.images()
    its = older_cluster(bench, made)
    with made.many(_NODES):
        ours = _planned(bench, made)
    with its.many(_NODES):
        theirs = _planned(bench, its)
    made.prepare()
    with made.changed():
        diff = _planned(bench, made, "--diff")
    for what, done in (
        (f"piimg plan, {_NODES} nodes", ours),
        (f"piimg {COMMIT} plan, {_NODES} nodes", theirs),
        ("piimg plan --diff, six nodes", diff),
    ):
        bench.add("plan", what, done, 0, note=f"{done.cpu:.2f} core-s")
    rss = ours.rss / MIB
    note = f"{ours.cpu:.2f} core-s"
    bench.aim(f"piimg plan of {_NODES} nodes, wall", "s", theirs.seconds, ours.seconds, _SECONDS, note)
    bench.aim(f"piimg plan of {_NODES} nodes, memory", "MiB", theirs.rss / MIB, rss, _MEMORY)
    note = f"{diff.cpu:.2f} core-s"
    bench.aim("piimg plan --diff of six nodes, wall", "s", None, diff.seconds, _DIFF_SECONDS, note)


def _planned(bench: Bench, made: Images, *words: str) -> Run:
    """The median of several runs."""
    argv = piimg(made, "plan", *words)
    return median([check(run([argv], bench.log("plan"), env=made.env), "piimg plan") for _ in range(_ROUNDS)])
