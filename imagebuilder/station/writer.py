"""What a station does to a card: the checks, the writing and the history of ``piimg flash``."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imagebuilder.card.contents import Contents
from imagebuilder.card.report import CardReport
from imagebuilder.card.source import Piece, open_source
from imagebuilder.card.write import FlashJob, Target, flash
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import unmount
from imagebuilder.device.identity import Carried
from imagebuilder.device.inventory import Candidate, check_rights, survey_again
from imagebuilder.device.node_card import boot_paths
from imagebuilder.events import Message, Reporter
from imagebuilder.history import store
from imagebuilder.history.block_maps import earlier_in
from imagebuilder.history.recorder import Recorder, planned_run
from imagebuilder.history.store import Event, History, runs_of
from imagebuilder.history.warnings import Past, notes_from, past, suspected
from imagebuilder.image.results import built_image
from imagebuilder.station.completed import CompletedNode, CompletedNodes, completed_node, tree_digest


class StationReporter(Reporter, Protocol):
    """A Reporter that is also said beforehand which cards there will be."""

    def expect(self, subject: str, total: int, title: str, line: str = "") -> None:
        """Announce a card of ``total`` bytes by its device, called ``title``, in the place of ``line``."""


@dataclass(frozen=True)
class StationCluster:
    """The cluster that a station writes: its name, its folders, and that of the node images."""

    name: str
    home: Path
    state: Path
    images: Path

    @property
    def history(self) -> History:
        """The history of its cards."""
        return History(self.state / store.FILE, self.home)

    @property
    def completed(self) -> CompletedNodes:
        """The completed nodes."""
        return CompletedNodes(self.state, self.home)


@dataclass(frozen=True)
class StationOptions:
    """How cards are written: as the options of ``piimg station`` of these names say."""

    verify: bool = True
    full: bool = False
    paranoid: bool = False
    virtual: bool = False
    jobs: int | None = None


def boot_paths_of(images: Path, nodes: Iterable[str]) -> frozenset[str]:
    """The paths on the boot partitions of these nodes' images in ``images``. Raises PiimgError."""
    return frozenset[str]().union(*(boot_paths(built_image(images, node)) for node in nodes))


@dataclass
class CardWriter:
    """Writes cards, and keeps which nodes are completed.

    ``known`` are the completed nodes as the file is to have them. ``write`` and ``bad_before`` run on many
    threads, ``keep`` on one.
    """

    cluster: StationCluster
    options: StationOptions
    reporter: StationReporter
    stop: threading.Event
    known: dict[str, CompletedNode]
    _contents: Contents = field(default_factory=Contents)
    _digests: dict[str, str] = field(default_factory=dict)

    def write(self, card: Candidate, node: str) -> CardReport:
        """Write a node to a card, if nothing prevents it now. Raises PiimgError where something does."""
        digest = tree_digest(self.cluster.images, node)
        source = open_source(built_image(self.cluster.images, node))
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
            earlier=() if full else self._earlier(card.carried),
        )
        self.reporter.expect(str(disk.node), source.body, f"{disk.slot} {node}", disk.slot)
        plan = planned_run(disk, source, node)
        recorder = Recorder(self.reporter, self.cluster.history, {str(disk.node): plan})
        report = suspected(flash(job, recorder, self.stop), events, disk)
        recorder.ended(report)
        self._digests[node] = digest
        return report

    def keep(self, card: Candidate, report: CardReport) -> None:
        """Keep that the node of ``report`` is completed, for the next start.

        A full disk must not cost the verdict: it is only a warning.
        """
        self.known[report.node] = completed_node(card.disk, report, self._digests[report.node])
        try:
            self.cluster.completed.write(self.known)
        except OSError as error:
            text = f"{self.cluster.completed.file} cannot be written: {error.strerror}"
            self.reporter.emit(Message("warning", text))

    def past_of(self, disk: Disk) -> Past:
        """What the history says of the card in ``disk``."""
        return past(runs_of(self._events(), disk), disk)

    def bad_before(self, disk: Disk) -> str:
        """That this very card was bad before. Another one in the same slot of a reader does not count."""
        before = self.past_of(disk)
        return before.bad if before.same else ""

    def _events(self) -> Sequence[Event]:
        """The history. Where it cannot be read there is a warning: the cards can be used without it."""
        try:
            return self.cluster.history.read()
        except OSError as error:
            text = f"{self.cluster.history.file} cannot be read: {error.strerror}"
            self.reporter.emit(Message("warning", text))
            return ()

    def _earlier(self, carried: Carried) -> Sequence[Sequence[Piece]]:
        """The pieces of what earlier runs may have written to a card that carries this node."""
        if not carried.node or carried.cluster != self.cluster.name:
            return ()
        return earlier_in(self.cluster.state, self.cluster.home).of(carried.node)
