"""The scenario of help texts and completion: how much processor time they take."""

import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace

from bench.context import Bench, check, median
from bench.images import PIIMG
from bench.measure import Run, Words, run
from bench.older import COMMIT, older

ROUNDS = 21  # of each, alternating; the median is reported

_COMPLETION = {"_PIIMG_COMPLETE": "bash_complete", "COMP_WORDS": "piimg plan --", "COMP_CWORD": "2"}
_CALLS: Mapping[str, tuple[Words, Mapping[str, str]]] = {
    "piimg --help": (["--help"], {}),
    "piimg plan --help": (["plan", "--help"], {}),
    "completion of piimg plan --": ([], _COMPLETION),
}


def start(bench: Bench) -> None:
    """Processor time of help texts and a completion compared with importing click; also of an older build."""
    calls: dict[str, tuple[Words, Mapping[str, str]]] = {
        "import click": ([sys.executable, "-c", "import click"], {})
    }
    before = older(bench)
    for what, (words, env) in _CALLS.items():
        calls[what] = ([PIIMG, *words], env)
        calls[f"{what}, {COMMIT}"] = ([before, *words], env)
    took: dict[str, list[Run]] = {what: [] for what in calls}
    for _ in range(ROUNDS):
        for what, (command, env) in calls.items():
            done = check(run([command], bench.log("start"), env=env), what)
            took[what].append(replace(done, seconds=done.cpu))
    reference = statistics.median(one.cpu for one in took["import click"])
    bench.add("start", "python -c 'import click' (s: processor time)", median(took["import click"]), 0)
    for what in list(calls)[1:]:
        target = 1.5 if what in _CALLS else None
        bench.add("start", what, median(took[what]), 0, reference=reference, to="import click", target=target)
    for what in _CALLS:
        now, old = (statistics.median(one.cpu for one in took[name]) for name in (what, f"{what}, {COMMIT}"))
        note = f"{now:.3f} core-s; older {old:.3f}"
        bench.aim(f"{what}, CPU", "of import click", old / reference, now / reference, 1.5, note)
