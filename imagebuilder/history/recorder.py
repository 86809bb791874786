"""A Reporter that also keeps the history of the cards: when the run on each began, and how it ended."""

import contextlib
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from imagebuilder.card.progress import FLASH
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.device.discovery import Disk
from imagebuilder.errors import PiimgError
from imagebuilder.events import Event as Told
from imagebuilder.events import Message, Reporter, Started
from imagebuilder.history.block_maps import earlier_in
from imagebuilder.history.store import Begun, Event, History, Look, begun, ended
from imagebuilder.image.results import Results, read_document


@dataclass(frozen=True)
class PlannedRun:
    """What a run is about to do to the card in ``disk``; ``image`` as in ``Begun``.

    ``source`` is what is written; its block map is kept once the card is good.
    """

    disk: Disk
    node: str
    image: str
    source: ImageSource | None = None


def planned_run(disk: Disk, source: ImageSource, node: str) -> PlannedRun:
    """The plan of a run that writes ``source``; with a ``node``, its node image, named by its tree digest."""
    image, digest = source.path, ""
    with contextlib.suppress(PiimgError):  # a history without it is one all the same
        digest = read_document(Results(image.parent, node).json)["tree_digest"] if node else ""
    return PlannedRun(disk, node, digest or image.name, source)


class Recorder:
    """A Reporter that passes everything on, and notes in the history when the run on a card begins.

    ``plans`` are by device path. A card that is never touched, as when it is in use, leaves no trace. What
    cannot be written is told once, and never raised: a memory must not cost anybody a verdict.
    """

    def __init__(self, reporter: Reporter, history: History, plans: Mapping[str, PlannedRun]) -> None:
        self._reporter, self._history, self._plans = reporter, history, plans
        self._begun: dict[str, Begun] = {}
        self._lock = threading.Lock()  # never held while a disk is waited for: all cards report through here
        self._keeping = threading.Lock()
        self._complained = False

    def emit(self, event: Told) -> None:
        """Pass an event on; with the first task on a card its run begins."""
        if (
            isinstance(event, Started)
            and event.task != FLASH
            and (start := self._first(event.subject)) is not None
        ):
            self._add(start)
        self._reporter.emit(event)

    def ended(self, report: CardReport) -> None:
        """Note what became of a card. Safe from any thread."""
        with self._lock:
            start = self._begun.pop(report.device, None)
        if start is None:
            return
        self._add(ended(start, report))
        plan = self._plans[report.device]
        if report.verdict is Verdict.GOOD and plan.node and plan.source is not None:
            self._keep(plan.node, plan.source)

    def was_read(self, plan: PlannedRun, report: CardReport, look: Look) -> None:
        """Note that a card which was only read is bad; any other outcome of that leaves no trace."""
        if report.verdict is Verdict.BAD:
            start = begun(plan.disk, secrets.token_hex(8), plan.node, plan.image)
            self._add(ended(start, report, look))

    def _first(self, device: str) -> Begun | None:
        plan = self._plans.get(device)
        with self._lock:
            if plan is None or device in self._begun:
                return None
            start = begun(plan.disk, secrets.token_hex(8), plan.node, plan.image)
            self._begun[device] = start
            return start

    def _add(self, event: Event) -> None:
        try:
            self._history.add(event)
        except OSError as error:
            self._complain(f"{self._history.file}: {error.strerror}")

    def _keep(self, node: str, source: ImageSource) -> None:
        """Keep the block map of what was written. Threads take turns: several cards may get one node."""
        earlier = earlier_in(self._history.file.parent, self._history.home)
        try:
            with self._keeping:
                earlier.keep(node, source)
        except (OSError, PiimgError, ValueError) as error:
            self._complain(str(error))

    def _complain(self, reason: str) -> None:
        """Warn once that something cannot be kept."""
        with self._lock:
            first, self._complained = not self._complained, True
        if first:
            self._reporter.emit(Message("warning", f"the history of the cards cannot be kept in {reason}"))
