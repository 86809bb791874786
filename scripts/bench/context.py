"""The context of all scenarios, and their results: rows of a table and rates over time."""

import socket
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.cards import Rig
from bench.images import FULL, SMALL, Images, Size, images, warm
from bench.measure import Run, Words, run
from bench.throttle import Speed

CARD = Speed(write=40, read=160)

Point = tuple[float, str, float]
"""Seconds since the run began, the phase, and bytes a second."""


class Failed(Exception):
    """The measured program failed, so its time means nothing."""


@dataclass(frozen=True)
class Row:
    """One line of the table. Times in seconds, ``cpu`` in core-seconds a GB (10^9 bytes) in use on the cards,
    ``rss`` in bytes, ``written`` and ``read`` in bytes a card (the mean) as the kernel counted them.

    ``reference`` seconds is what the time is compared with, and ``to`` says what that is; ``target`` is the
    most that the ratio should be.
    """

    scenario: str
    what: str
    seconds: float
    reference: float = 0.0
    to: str = ""
    target: float | None = None
    cpu: float | None = None
    rss: int = 0
    written: float = 0.0
    read: float = 0.0
    busy: float = 0.0
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The time, compared."""
        return self.seconds / self.reference if self.reference else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when there is none."""
        return None if self.target is None or self.ratio is None else self.ratio <= self.target

    def document(self) -> dict[str, object]:
        """The row as data."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


@dataclass(frozen=True)
class Aim:
    """A figure that has a target: what piimg needs ``now``, what the ``older`` build needs in the same run
    (None: not measured), and the ``most`` that it should be."""

    what: str
    unit: str
    older: float | None
    now: float
    most: float
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.now <= self.most

    def document(self) -> dict[str, object]:
        """The figure as data."""
        return {**asdict(self), "met": self.met}


@dataclass
class Bench:
    """One run of the benchmark: where it works, how large, and what has come out so far."""

    work: Path
    quick: bool
    rows: list[Row] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    plots: dict[str, dict[str, list[Point]]] = field(default_factory=dict)

    @property
    def size(self) -> Size:
        """The size of the image for most scenarios."""
        return SMALL if self.quick else FULL

    def images(self, size: Size | None = None) -> Images:
        """The images, made if they are not there, and the base image in the page cache."""
        found = images(self.work, size or self.size)
        warm(found.cached)
        return found

    @property
    def cards(self) -> Path:
        """Where card files lie while a scenario runs."""
        return self.work / "cards"

    def log(self, name: str) -> Path:
        """The file for what a measured program prints."""
        folder = self.work / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"

    def row_of(self, scenario: str) -> Row | None:
        """The first row of a scenario, when that has run."""
        return next((row for row in self.rows if row.scenario == scenario), None)

    def seconds_of(self, scenario: str) -> float | None:
        """The time of the first row of a scenario, when that has run."""
        row = self.row_of(scenario)
        return row.seconds if row else None

    def aim(self, what: str, unit: str, older: float | None, now: float, most: float, note: str = "") -> None:
        """Add a figure that has a target."""
        self.aims.append(Aim(what, unit, older, now, most, note))

    def add(self, scenario: str, what: str, done: Run, gb: float, **more: Any) -> Row:
        """Add the row of a run that put ``gb`` GB in use onto all its cards together."""
        count = max(1, len(done.seen))
        more.setdefault("seconds", done.seconds)
        more.setdefault("cpu", done.cpu / gb if gb else None)
        more.setdefault("written", sum(card.written for card in done.seen) / count)
        more.setdefault("read", sum(card.read for card in done.seen) / count)
        row = Row(scenario, what, rss=done.rss, busy=round(done.busy, 2), **more)
        self.rows.append(row)
        return row


def check(done: Run, what: str, expected: Sequence[int] = (0,)) -> Run:
    """Raise Failed unless every command ended as expected."""
    if any(status not in expected for status in done.statuses):
        raise Failed(f"{what} ended with {done.statuses}: {done.output[-2000:]}")
    return done


def median(runs: Sequence[Run]) -> Run:
    """The run with the median time (the lower one of an even number)."""
    middle = statistics.median_low([run.seconds for run in runs])
    return next(run for run in runs if run.seconds == middle)


def piimg(made: Images, *words: str | Path) -> Words:
    """A command line of the piimg of ``made``, on its cluster."""
    return [made.program, "--manifest", made.manifest, "--progress", "plain", *words]


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def measured(bench: Bench, rig: Rig, name: str, commands: Sequence[Words], **more: Any) -> Run:
    """Run commands on the cards of ``rig``, and keep what the cards saw over time for the plot ``name``."""
    done = run(commands, bench.log(name), cards=rig.cards, prefix=rig.prefix, **more)
    bench.plots[name] = {
        card.device.name: _rates(seen.over_time) for card, seen in zip(rig.cards, done.seen, strict=True)
    }
    return done


def _rates(over_time: Sequence[tuple[float, int, int]]) -> list[Point]:
    """Rates between the looks at the counters: of writing where more was written than read."""
    points: list[Point] = []
    before = (0.0, 0, 0)
    for now in over_time:
        step, read, written = (new - old for new, old in zip(now, before, strict=True))
        if step > 0:
            points.append((now[0], "write" if written >= read else "read", max(read, written) / step))
        before = now
    return points
