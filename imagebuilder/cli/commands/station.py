"""`piimg station`: write each card as it is put in."""

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from imagebuilder.card.report import CardReport
from imagebuilder.cli.flashing import FlashOutcome, WriteOptions, agree, asking, finish
from imagebuilder.cli.keyboard import keys
from imagebuilder.cli.next_steps import next_steps
from imagebuilder.cli.options import (
    refuse_both,
)
from imagebuilder.cli.output import at_terminal, echo
from imagebuilder.cli.report_file import ReportFile, beside, chosen
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import GracefulStop, graceful_stop
from imagebuilder.cli.sources import node_sources
from imagebuilder.cli.station_view import StationView
from imagebuilder.cli.web.feed import Answers
from imagebuilder.cli.web.run_page import showing
from imagebuilder.device.discovery import find_disks
from imagebuilder.device.inventory import Candidate, carried_now
from imagebuilder.device.monitor import MediaMonitor, watching
from imagebuilder.errors import UsageError
from imagebuilder.station.completed import CompletedNode, still_complete
from imagebuilder.station.policy import NodeFrom, StationRules, rules_for
from imagebuilder.station.station import Station, StationWork, running
from imagebuilder.station.writer import CardWriter, StationCluster, StationOptions
from imagebuilder.workspace import Workspace, made_folder


def station(
    session: Session,
    slots: tuple[str, ...],
    node_from: NodeFrom | None,
    yes: bool,
    erase: bool,
    again: bool,
    base: str | None,
    new_keys: bool,
    images: Path | None,
    jobs: int | None,
    full: bool,
    no_verify: bool,
    paranoid: bool,
    virtual: bool,
    report: str | None,
    as_json: bool,
    web: str | None = None,
    web_control: bool = False,
) -> None:
    """Run ``piimg station``, called as ``usage/station.py`` says."""
    refuse_both(paranoid, no_verify)
    pairs = [(slot, node) for slot, _, node in (text.partition("=") for text in slots)]
    names = [node.name for node in session.cluster.nodes]
    can_ask = at_terminal() or web_control
    rules = rules_for(session.cluster.name, names, pairs, node_from, erase=erase, can_ask=can_ask)
    _refuse_unattended(rules, yes)
    options = StationOptions(not no_verify, full, paranoid, virtual, jobs)
    workspace = session.workspace
    saved = None if report is None else chosen(report, as_json)
    with contextlib.ExitStack() as stack:
        answers = stack.enter_context(showing(session, web, "station", web_control))
        session.show_page()
        cards = carried_now((), virtual)
        sources = stack.enter_context(
            node_sources(session, rules.nodes, base=base, images=images, new_keys=new_keys, cards=cards)
        )
        saved = saved or _report_beside_images(workspace, images)
        cluster = StationCluster(session.cluster.name, workspace.folder, workspace.state, sources)
        _station(
            session, cluster, rules, options, answers, yes=yes, again=again, saved=saved, as_json=as_json
        )


def _report_beside_images(workspace: Workspace, images: Path | None) -> ReportFile:
    folder = images or made_folder(workspace.images, workspace.folder)
    return beside(folder / "station-report.json", workspace.folder)


def _station(
    session: Session,
    cluster: StationCluster,
    rules: StationRules,
    options: StationOptions,
    answers: Answers,
    *,
    yes: bool,
    again: bool,
    saved: ReportFile,
    as_json: bool,
) -> None:
    """Ask, then run the station until every node has its card, and exit with the exit code of the run."""
    with cluster.completed.locked(cluster.name):
        known = cluster.completed.kept(rewrite=rules.nodes if again else ())
        digests = {node: source.tree_digest for node, source in cluster.sources.items()}
        completed = still_complete({node: known[node] for node in rules.nodes if node in known}, digests)
        session.reporter.goals(rules.nodes, {node: _when(kept) for node, kept in completed.items()})
        with asking(session, "" if yes else "Start?"):
            how = WriteOptions(yes, virtual=options.virtual)
            _announce(rules, completed, how, session.show_code)
        writer = CardWriter(cluster, options, session.reporter, session.stop, known)
        with (
            watching() as changes,
            answers.waking(changes.wake),
            graceful_stop(session.stop, session.reporter, changes.wake) as graceful,
        ):
            outcome = _run(session, graceful, changes, rules, completed, writer, saved, answers)
            report_to = saved if outcome.done or saved.is_stream else None
            finish(outcome, report_to, as_json, next_steps(session, outcome.done))


def _refuse_unattended(rules: StationRules, yes: bool) -> None:
    """Raise UsageError when there is no terminal, or no question, and the slots were not named."""
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
    if rules.node_from == "ask" and not rules.can_ask:
        raise UsageError("there is no terminal to ask at", "use another --node-from")


def _announce(
    rules: StationRules,
    completed: Mapping[str, CompletedNode],
    how: WriteOptions,
    before: Callable[[], None],
) -> None:
    """Show what will be done, and ask; ``before`` the question. Raises PiimgError for a no."""
    lines = []
    for node, kept in completed.items():
        lines.append(f"{node} is done: {_when(kept)}")
    missing = [node for node in rules.nodes if node not in completed]
    if not missing:
        lines.append("every node has its card; to write them again: piimg station --again")
        echo("\n".join(lines), err=True)
        return
    lines.append(f"nodes without a card: {', '.join(missing)}")
    present = {disk.slot for disk in find_disks(how.virtual)}
    lines += [f"note: there is no slot {slot} now" for slot in rules.slots if slot not in present]
    where = f"into {', '.join(rules.slots)}" if rules.slots else "into any slot"
    lines.append(
        f"From now on, a card that is put {where} is erased and written with one of them if it is empty or"
    )
    lines.append(f"carries a node of {rules.cluster}. {_otherwise(rules)}")
    lines.append("Cards that are there now are left alone.")
    echo("\n".join(lines), err=True)
    agree(how, "Start?", before)


def _when(kept: CompletedNode) -> str:
    """When and where a node got its card."""
    return f"on {kept.time[:16].replace('T', ' ')} UTC, in slot {kept.slot}"


def _otherwise(rules: StationRules) -> str:
    if rules.erase:
        return "Any other card is erased, too (--erase)."
    return "You are asked about any other card." if rules.can_ask else "Any other card is left alone."


def _run(
    session: Session,
    graceful: GracefulStop,
    changes: MediaMonitor,
    rules: StationRules,
    completed: Collection[str],
    writer: CardWriter,
    saved: ReportFile,
    answers: Answers,
) -> FlashOutcome:
    """Run the station until every node has its card, or it is stopped."""
    stop, reporter, options = session.stop, session.reporter, writer.options
    paths = frozenset[str]().union(*(source.boot_paths for source in writer.cluster.sources.values()))

    def card_ended(card: Candidate, report: CardReport) -> None:
        writer.ended(card, report)
        reporter.judged(report, "")  # the slot's line says what to do

    work = StationWork(writer.write, card_ended, writer.bad_before)
    try:
        with keys() as typed:
            graceful.at_once = typed.give_back
            station = Station(
                rules,
                completed,
                work,
                changes.wake,
                known=paths,
                virtual=options.virtual,
                jobs=options.jobs,
            )
            view = StationView(reporter, station, typed, writer.past_of)
            with running(station, stop):
                while not stop.is_set():
                    ended = station.tick(notice=not changes.by_udev)
                    if ended and not saved.is_stream:
                        saved.save(station.reports, station.slots.remaining)
                    view.show(ended)
                    if station.slots.is_over:
                        break
                    if changes.wait(typed.handle):
                        view.read_answer()
                    for ticket, text in answers.take():
                        view.accept_answer(ticket, text)
                stopped = stop.is_set()
            view.end()
    finally:
        graceful.work_ended()
        session.settle()
    return FlashOutcome(station.reports, station.slots.remaining, stopped)
