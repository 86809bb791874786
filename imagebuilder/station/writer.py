"""Write the cards of a station, with the same checks, job and history as ``piimg flash``."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imagebuilder.card.contents import Contents
from imagebuilder.card.report import CardReport
from imagebuilder.card.shared import SharedPieces
from imagebuilder.card.source import ImageSource, Piece
from imagebuilder.card.write import FlashJob, Target, flash
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import unmount
from imagebuilder.device.identity import Carried
from imagebuilder.device.inventory import Candidate, check_rights, survey_again
from imagebuilder.events import Message, Reporter
from imagebuilder.history import store
from imagebuilder.history.block_maps import earlier_in
from imagebuilder.history.recorder import Recorder, planned_run
from imagebuilder.history.store import Event, History, runs_of
from imagebuilder.history.warnings import Past, notes_from, past, suspected
from imagebuilder.station.completed import CompletedNode, CompletedNodes, completed_node


class StationReporter(Reporter, Protocol):
    """A Reporter that also announces each card before it is written."""

    def expect(
        self,
        subject: str,
        total: int,
        title: str,
        line: str = "",
        data: Mapping[str, object] | None = None,
    ) -> None:
        """Announce a card by its device: ``total`` bytes, with ``title``, in place of the line ``line``.

        ``data`` has its slot and its node.
        """


@dataclass(frozen=True)
class StationCluster:
    """The cluster of a station: its name, its folders, and what is written for each node."""

    name: str
    home: Path
    state: Path
    sources: Mapping[str, ImageSource]

    @property
    def history(self) -> History:
        """The history of the cluster's cards."""
        return History(self.state / store.FILE, self.home)

    @property
    def completed(self) -> CompletedNodes:
        """The file of the completed nodes."""
        return CompletedNodes(self.state, self.home)


@dataclass(frozen=True)
class StationOptions:
    """How cards are written; see the options of ``piimg station`` with the same names."""

    verify: bool = True
    full: bool = False
    paranoid: bool = False
    virtual: bool = False
    jobs: int | None = None


@dataclass
class CardWriter:
    """Writes cards, and saves the completed nodes.

    ``known`` are the completed nodes for the file. ``write`` and ``bad_before`` run on many threads,
    ``ended`` on one.
    """

    cluster: StationCluster
    options: StationOptions
    reporter: StationReporter
    stop: threading.Event
    known: dict[str, CompletedNode]
    _contents: Contents = field(default_factory=Contents)
    _shared: SharedPieces = field(default_factory=SharedPieces)
    _recorders: dict[str, Recorder] = field(default_factory=dict)  # by device

    def write(self, card: Candidate, node: str) -> CardReport:
        """Check a card again and write a node to it. Raises PiimgError when it may not be written to."""
        source = self.cluster.sources[node]
        options = self.options
        (card,) = survey_again([card], options.virtual)
        disk = card.disk
        policy.check(disk, card.holdings, source.size, options.virtual)
        check_rights(disk, options.paranoid)
        events = self._events()
        before = past(runs_of(events, disk), disk)
        for note in (*card.notes, *notes_from([(disk, before)])):
            self.reporter.emit(Message("warning", note))
        unmount(card.holdings)
        full = options.full or bool(before.bad)
        job = FlashJob(
            disk=disk,
            source=source,
            target=Target(node, self.cluster.name),
            verify=options.verify or bool(before.bad),
            full=full,
            paranoid=options.paranoid,
            contents=self._contents,
            shared=self._shared,
            earlier=() if full else self._earlier(card.carried),
        )
        where = {"slot": disk.slot, "node": node}
        self.reporter.expect(str(disk.node), source.body, f"{disk.slot} {node}", disk.slot, where)
        plan = planned_run(disk, source, node)
        recorder = Recorder(self.reporter, self.cluster.history, {str(disk.node): plan})
        self._recorders[str(disk.node)] = recorder
        return suspected(flash(job, recorder, self.stop), events, disk)

    def ended(self, card: Candidate, report: CardReport) -> None:
        """Record the final verdict in the history, and save a completed node for the next start.

        An error, such as a full disk, must not change the verdict: it is only a warning.
        """
        self._recorders.pop(str(card.disk.node)).ended(report)
        if not report.done:
            return
        self.known[report.node] = completed_node(
            card.disk, report, self.cluster.sources[report.node].tree_digest
        )
        try:
            self.cluster.completed.write(self.known)
        except OSError as error:
            text = f"{self.cluster.completed.file} cannot be written: {error.strerror}"
            self.reporter.emit(Message("warning", text))

    def past_of(self, disk: Disk) -> Past:
        """The warnings from the history about the card in ``disk``."""
        return past(runs_of(self._events(), disk), disk)

    def bad_before(self, disk: Disk) -> str:
        """The warning that this same card was bad before. Other cards in the same slot do not count."""
        before = self.past_of(disk)
        return before.bad if before.same else ""

    def _events(self) -> Sequence[Event]:
        """The history; empty, with a warning, when it cannot be read."""
        try:
            return self.cluster.history.read()
        except OSError as error:
            text = f"{self.cluster.history.file} cannot be read: {error.strerror}"
            self.reporter.emit(Message("warning", text))
            return ()

    def _earlier(self, carried: Carried) -> Sequence[Sequence[Piece]]:
        """The pieces of each image that an earlier run may have written to a card with this node."""
        if not carried.node or carried.cluster != self.cluster.name:
            return ()
        return earlier_in(self.cluster.state, self.cluster.home).of(carried.node)
