"""`piimg station`: write each card as it is put in."""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import click

from imagebuilder.card.contents import Contents
from imagebuilder.card.report import CardReport
from imagebuilder.card.source import open_source
from imagebuilder.card.write import flash
from imagebuilder.cli.flashing import (
    Choice,
    FlashOutcome,
    WriteOptions,
    after_the_question,
    agree,
    at_terminal,
    built_image,
    finish,
    job_for,
    planned,
    suspected,
)
from imagebuilder.cli.history import events_of, notes_from, past_of, recorder_for
from imagebuilder.cli.keyboard import Keys, keys
from imagebuilder.cli.options import (
    cards_at_once,
    images_folder,
    loop_devices_too,
    not_verified,
    read_once_more,
    refuse_both,
    report_as_json,
    report_file,
    write_all,
)
from imagebuilder.cli.output import echo
from imagebuilder.cli.report_file import ReportFile, beside, chosen
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import stopping
from imagebuilder.cli.station_view import Board
from imagebuilder.device.discovery import Disk, find_disks
from imagebuilder.device.inventory import Candidate
from imagebuilder.device.monitor import MediaMonitor, watching
from imagebuilder.device.node_card import boot_paths
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message
from imagebuilder.history.store import runs_of
from imagebuilder.history.warnings import past
from imagebuilder.image.results import Results, read_document
from imagebuilder.station.completed import FILE, LOCK, Ledger, Made, made
from imagebuilder.station.policy import NodeFrom, Rules
from imagebuilder.station.station import Station, running
from imagebuilder.system import files

EXAMPLES = """\b
Examples:
  sudo piimg station                     any slot; asks what is unclear
  sudo piimg station --node-from ask     asks which node each card gets
  sudo piimg station --slot "usb 1-1.1=master" --slot "usb 1-1.2=worker1"
  sudo piimg station --yes --slot "usb 1-1.1" --slot "usb 1-1.2"
"""


@click.command("station", epilog=EXAMPLES, short_help="Write each card as it is put in.")
@click.option(
    "--slot",
    "slots",
    multiple=True,
    metavar="SLOT[=NODE]",
    help="Use only this slot, as piimg cards names it (repeatable), for any node or for this one.",
)
@click.option(
    "--node-from",
    type=click.Choice(get_args(NodeFrom)),
    help="Which node a card gets: the next without one, the one you say, or that of its slot.",
)
@click.option("--yes", "-y", is_flag=True, help="Begin without asking. The slots must be named.")
@click.option("--erase", is_flag=True, help="Erase whatever a card holds, without asking.")
@click.option("--again", is_flag=True, help="Begin anew: take no node for done.")
@images_folder
@cards_at_once
@write_all
@not_verified
@read_once_more
@loop_devices_too
@report_file("station-report.json")
@report_as_json
@click.pass_obj
def station(
    session: Session,
    slots: tuple[str, ...],
    node_from: NodeFrom | None,
    yes: bool,
    erase: bool,
    again: bool,
    images: Path | None,
    jobs: int | None,
    full: bool,
    no_verify: bool,
    paranoid: bool,
    virtual: bool,
    report: str | None,
    as_json: bool,
) -> None:
    """Wait for cards, and write and read back each one as it is put in, until every node has a card.

    What is in a slot when it begins is left alone. A card that is empty, or is that of a node of the cluster,
    gets a node without a question; any other is asked about first. What is done is remembered.
    """
    refuse_both(paranoid, no_verify)
    rules = _rules(session, slots, node_from, erase)
    _refuse_unwatched(rules, yes)
    how = WriteOptions(yes, verify=not no_verify, full=full, virtual=virtual, jobs=jobs, paranoid=paranoid)
    folder = images or session.workspace.images
    saved = beside(folder / "station-report.json") if report is None else chosen(report, as_json)
    ledger = Ledger(session.workspace.state / FILE, session.workspace.folder)
    with _alone(session):
        known = _known(ledger, rules, again)
        done = _still_valid(known, folder, rules.nodes)
        _announce(session, rules, done, how)
        desk = _Desk(session, how, folder, ledger, known)
        outcome = desk.run(rules, done, saved)
        finish(outcome, saved if outcome.done or saved.is_stream else None, as_json)


def _rules(session: Session, slots: Sequence[str], node_from: NodeFrom | None, erase: bool) -> Rules:
    cluster = session.cluster
    nodes = tuple(node.name for node in cluster.nodes)
    pairs = [(slot, node) for slot, _, node in (text.partition("=") for text in slots)]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise UsageError("a slot was named twice", "name each slot once")
    given = [node for node in named.values() if node]
    for node in given:
        if node not in nodes:
            raise UsageError(f"the manifest has no node {node}", f"it has {', '.join(nodes)}")
    if len(set(given)) < len(given):
        raise UsageError("two slots are for the same node", "name each node once")
    way = node_from or ("slot" if given else "next")
    if (way == "slot") != bool(given) or (given and len(given) < len(named)):
        raise UsageError(
            "either every slot has its node, or none", 'name slots as in --slot "usb 1-1=worker1" for that'
        )
    if way == "slot":
        nodes = tuple(node for node in nodes if node in given)  # no other can be done here
    return Rules(cluster.name, nodes, way, named, erase, at_terminal())


def _refuse_unwatched(rules: Rules, yes: bool) -> None:
    """Without anybody who sees what it is about to do, a station does only what was said beforehand."""
    if yes and not rules.slots:
        raise UsageError(
            "with --yes the slots must be named, or a card in any slot would be erased",
            'name them with --slot, as in: piimg station --yes --slot "usb 1-1"',
        )
    if at_terminal():
        return
    if not yes:
        raise UsageError(
            "refused: there is no terminal to ask at", "name the slots with --slot, and add --yes"
        )
    if rules.node_from == "ask":
        raise UsageError("there is no terminal to ask at", "take another --node-from")


def _alone(session: Session) -> Any:
    """Hold the cluster's station: a second one would hand out the same nodes."""
    try:
        files.make_private(session.workspace.state, session.workspace.folder)
    except OSError as error:
        raise PiimgError(
            f"cannot make {session.workspace.state}: {error.strerror}",
            "the cluster's folder must be writable",
        ) from error
    return files.locked(
        session.workspace.state / LOCK, f"another station of {session.cluster.name} is running"
    )


def _known(ledger: Ledger, rules: Rules, again: bool) -> dict[str, Made]:
    """What is remembered; ``again``: of the nodes that are not to be written now. Raises PiimgError."""
    try:
        known = ledger.read()
    except PiimgError:
        if not again:
            raise
        known = {}
    return {node: one for node, one in known.items() if not (again and node in rules.nodes)}


def _still_valid(before: Mapping[str, Made], folder: Path, nodes: Collection[str]) -> dict[str, Made]:
    """The nodes whose cards hold what is built now. Raises UsageError when one is not built."""
    for node in nodes:
        built_image(folder, node)
    return {node: one for node, one in before.items() if node in nodes and one.image == _digest(folder, node)}


def _digest(folder: Path, node: str) -> str:
    return str(read_document(Results(folder, node).json).get("tree_digest", ""))


def _announce(session: Session, rules: Rules, before: Mapping[str, Made], how: WriteOptions) -> None:
    """Say what will be done, and ask. Raises PiimgError for a no."""
    lines = []
    for node, one in before.items():
        lines.append(f"{node} is done: on {one.time[:16].replace('T', ' ')} UTC, in slot {one.slot}")
    missing = [node for node in rules.nodes if node not in before]
    if not missing:
        lines.append("every node has its card; to make them anew: piimg station --again")
        echo("\n".join(lines), err=True)
        return
    lines.append(f"still without a card: {', '.join(missing)}")
    present = {disk.slot for disk in find_disks(how.virtual)}
    lines += [f"note: there is no slot {slot} now" for slot in rules.slots if slot not in present]
    where = f"into {', '.join(rules.slots)}" if rules.slots else "into any slot"
    lines.append(f"From now on a card that is put {where} is erased for one of them if it is empty or")
    lines.append(f"the card of a node of {rules.cluster}. {_otherwise(rules)}")
    lines.append("What is there now is left alone.")
    echo("\n".join(lines), err=True)
    agree(how, "Begin?")


def _otherwise(rules: Rules) -> str:
    if rules.erase:
        return "So is any other (--erase)."
    return "You are asked about any other." if rules.can_ask else "Any other is left alone."


@dataclass
class _Desk:
    """Who runs a station: writes the cards, remembers what is done, shows it all.

    Several threads write cards, and remember.
    """

    session: Session
    how: WriteOptions
    folder: Path
    ledger: Ledger
    known: dict[str, Made]
    contents: Contents = field(default_factory=Contents)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, rules: Rules, done: Collection[str], saved: ReportFile) -> FlashOutcome:
        """Be there for cards until every node has one, or somebody wishes to stop."""
        stop, reporter = self.session.stop, self.session.reporter
        ours = frozenset[str]().union(*(boot_paths(built_image(self.folder, node)) for node in rules.nodes))
        try:
            with watching() as watch, keys() as typed, stopping(stop, reporter, watch.ring, typed.give_back):
                one = Station(
                    rules,
                    done,
                    self.write,
                    watch.ring,
                    known=ours,
                    virtual=self.how.virtual,
                    jobs=self.how.jobs,
                    was_bad=self.was_bad,
                )
                board = Board(self.session, one, typed)
                with running(one, stop):
                    self._attend(one, board, watch, typed, saved)
                    stopped = stop.is_set()
                board.end()
        finally:
            self.session.settle()
        return FlashOutcome(one.reports, one.remaining, stopped)

    def _attend(
        self, one: Station, board: Board, watch: MediaMonitor, typed: Keys, saved: ReportFile
    ) -> None:
        while not self.session.stop.is_set():
            ended = one.tick(notice=not watch.by_udev)
            if ended and not saved.is_stream:
                saved.save(one.reports, one.remaining)
            board.show(ended)
            if one.is_over:
                return
            if watch.wait(typed.handle):
                board.hear()

    def was_bad(self, disk: Disk) -> str:
        """That this very card was bad before. Of another in the same slot of a reader nobody is asked."""
        before = past_of(self.session, disk)
        return before.bad if before.same else ""

    def write(self, card: Candidate, node: str) -> CardReport:
        """Write a node to a card as `piimg flash` does, after the same checks. On the card's thread."""
        digest = _digest(self.folder, node)
        source = open_source(built_image(self.folder, node))
        (card,) = after_the_question([(card, source.size)], self.how)
        disk, reporter = card.disk, self.session.reporter
        events = events_of(self.session)
        before = past(runs_of(events, disk), disk)
        for note in (*card.notes, *notes_from([(disk, before)])):
            reporter.emit(Message("warning", note))
        choice = Choice(card, source, node)
        job = replace(job_for(self.session, choice, self.how, bool(before.bad)), contents=self.contents)
        reporter.expect(str(disk.node), source.body, f"{disk.slot} {node}", disk.slot)
        recorder = recorder_for(self.session, [planned(choice)])
        report = suspected(flash(job, recorder or reporter, self.session.stop), events, disk)
        if recorder is not None:
            recorder.ended(report)
        if report.done:
            self._remember(node, made(disk, report, digest))
        return report

    def _remember(self, node: str, one: Made) -> None:
        """Keep it for the next start. A full disk must not cost the verdict: it is only told."""
        with self.lock:
            self.known[node] = one
            try:
                self.ledger.write(self.known)
            except OSError as error:
                text = f"{self.ledger.file} cannot be written: {error.strerror}"
                self.session.reporter.emit(Message("warning", text))
