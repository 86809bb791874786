"""What the fault tests share: a faulty card beside a sound one, what must hold of both, and the table."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imagebuilder.card.batch import run as run_batch
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.source import ImageSource, first_difference
from imagebuilder.card.write import NO_NODE, FlashJob
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Advanced, Event, Message, Silent, Started
from tests.integration.card.rig import MIB, Rig, below, bmaptool_agrees

MakeCard = Callable[..., Disk]

ROWS: dict[str, list[tuple[str, ...]]] = {}
"""The rows of docs/faults.md, by its headings: each test that came out right adds its own."""


@dataclass
class When:
    """A reporter that does something once: when a task on ``device`` has come to a share of its total."""

    task: str
    share: float
    act: Callable[[], object]
    device: str = ""
    done: bool = False

    def emit(self, event: Event) -> None:
        """Look whether it is time."""
        if self.done or isinstance(event, Message) or (event.subject, event.task) != (self.device, self.task):
            return
        begun = isinstance(event, Started) and self.share == 0
        if begun or (isinstance(event, Advanced) and event.done >= self.share * (event.total or 0)):
            self.done = True
            self.act()


@dataclass(frozen=True)
class Bench:
    """Faulty cards, each flashed together with a sound one."""

    make_faulty: Rig
    make_card: MakeCard
    source: ImageSource

    def flash(self, disk: Disk, when: When | None = None, **options: float) -> CardReport:
        """Flash the faulty card and a sound one at once; ``options`` are the job's.

        The sound one must come out good and hold the image. The faulty one may have a partition table only
        when it is called good, and then only bmaptool finds that it holds the image.
        """
        other = self.make_card()
        if when:
            when.device = str(disk.node)
        jobs = [
            FlashJob(disk=disk, source=self.source, target=NO_NODE, **options),  # type: ignore[arg-type]
            FlashJob(disk=other, source=self.source, target=NO_NODE),
        ]
        report, sound = run_batch(jobs, when or Silent(), threading.Event())
        assert not [one for one in threading.enumerate() if one.name.startswith(f"{disk.name} ")], "it hangs"
        assert when is None or when.done, f"{when.task} never came to {when.share:.0%}"
        assert (sound.verdict, sound.error, sound.retries) == (Verdict.GOOD, "", 0)
        assert first_wrong(self.source, Path(other.backing)) is None
        self.check_head(disk, report)
        assert bmaptool_agrees(self.source, disk) is (report.verdict is Verdict.GOOD), report.error
        return report

    def check_head(self, disk: Disk, report: CardReport) -> None:
        """A card looks bootable when it is good, and only then; what it says of itself is not asked."""
        with below(disk).open("rb") as stream:
            signature = stream.read(512)[510:]
        assert (signature == b"\x55\xaa") is (report.verdict is Verdict.GOOD), report.error

    @cached_property
    def image(self) -> bytes:
        """The bytes of the image."""
        return self.source.content.base.read_bytes()

    def noise(self, partition: int) -> int:
        """A byte inside the file /noise of a partition: found in the image by what the file holds."""
        content = (self.source.content.base.parent / "worker1-files" / "noise").read_bytes()
        part = self.source.slices[partition - 1]
        at = self.image.find(content[MIB : MIB + 512], part.start, part.end)
        assert at > 0
        return at + 7

    @property
    def last(self) -> int:
        """The last byte in use but four."""
        return max(one.end for one in self.source.map) - 5


def first_wrong(source: ImageSource, medium: Path, behind: int = 0) -> int | None:
    """The first byte in use, from ``behind`` on, that ``medium`` does not hold as the image does."""
    with source.content.base.open("rb") as image, medium.open("rb") as card:
        for one in source.map:
            start = max(one.start, behind)
            wanted = os.pread(image.fileno(), max(one.end - start, 0), start)
            index = first_difference(os.pread(card.fileno(), len(wanted), start), wanted)
            if index is not None:
                return start + index
    return None


def where(report: CardReport) -> str:
    """Where a card went wrong, as its report says, in words that hold for every run."""
    if report.offset is None:
        return "–"
    if report.partition is None:
        return "byte, outside of the partitions"
    return f"byte, partition {report.partition}" + (f", {report.file}" if report.file else "")


def tell(heading: str, *cells: str) -> None:
    """Add a row to the table, or to the rows there are of another run of the same test."""
    rows = ROWS.setdefault(heading, [])
    if cells not in rows:
        rows.append(cells)
