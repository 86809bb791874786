"""A Reporter that also records the history of the cards: the begin and the end of the run on each."""

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.card.progress import FLASH
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.device.discovery import Disk
from imagebuilder.errors import PiimgError
from imagebuilder.events import Event as ReporterEvent
from imagebuilder.events import Message, Reporter, Started
from imagebuilder.history.block_maps import earlier_in
from imagebuilder.history.store import Begun, Event, History, Look, begun, ended
from imagebuilder.history.written import recipes_in


@dataclass(frozen=True)
class PlannedRun:
    """A run that is about to begin on the card in ``disk``; ``image`` as in ``Begun``.

    ``source`` is the image to write; its recipe and block map are saved once the card is good.
    """

    disk: Disk
    node: str
    image: str
    source: ImageSource | None = None


def planned_run(disk: Disk, source: ImageSource, node: str) -> PlannedRun:
    """The plan of a run that writes ``source``. With a ``node``, the image is named by its tree digest."""
    digest = source.tree_digest if node else ""
    return PlannedRun(disk, node, digest or Path(source.label).name, source)


class Recorder:
    """A Reporter that forwards every event, and records in the history when the run on a card begins.

    ``plans`` are by device path. A card that is never opened, for example because it is in use, is not
    recorded. An error of the history is reported once, and never raised: it must not prevent a verdict.
    """

    def __init__(self, reporter: Reporter, history: History, plans: Mapping[str, PlannedRun]) -> None:
        self._reporter, self._history, self._plans = reporter, history, plans
        self._begun: dict[str, Begun] = {}
        self._lock = threading.Lock()  # released before any disk access: all cards report through here
        self._saving = threading.Lock()
        self._warned = False

    def emit(self, event: ReporterEvent) -> None:
        """Forward an event. The first task on a card begins its run."""
        if (
            isinstance(event, Started)
            and event.task != FLASH
            and (start := self._begin(event.subject)) is not None
        ):
            self._add(start)
        self._reporter.emit(event)

    def ended(self, report: CardReport) -> None:
        """Record the end of the run on a card. Safe from any thread."""
        with self._lock:
            start = self._begun.pop(report.device, None)
        if start is None:
            return
        self._add(ended(start, report))
        plan = self._plans[report.device]
        if report.done and plan.node and plan.source is not None:
            self._save_written(plan.node, plan.source, report.verdict is Verdict.GOOD)

    def was_read(self, plan: PlannedRun, report: CardReport, look: Look) -> None:
        """Record that a card which was only read is bad; other verdicts of reading are not recorded."""
        if report.verdict is Verdict.BAD:
            start = begun(plan.disk, secrets.token_hex(8), plan.node, plan.image)
            self._add(ended(start, report, look))

    def _begin(self, device: str) -> Begun | None:
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
            self._warn_once(f"{self._history.file}: {error.strerror}")

    def _save_written(self, node: str, source: ImageSource, good: bool) -> None:
        """Save the recipe of the written image, and, if the card is good, its block map.

        One thread at a time: several cards may get one node.
        """
        state, home = self._history.file.parent, self._history.home
        try:
            with self._saving:
                recipes_in(state, home).keep(node, source)
                if good:
                    earlier_in(state, home).keep(node, source)
        except (OSError, PiimgError, ValueError) as error:
            self._warn_once(str(error))

    def _warn_once(self, reason: str) -> None:
        """Emit a warning, only once, that something cannot be saved."""
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            self._reporter.emit(Message("warning", f"cannot save the history of the cards in {reason}"))
