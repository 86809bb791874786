"""Shared by the commands that write cards: node images, the question, the report."""

import contextlib
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from imagebuilder.card import batch
from imagebuilder.card import report as reports
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.rounds import Identity
from imagebuilder.card.source import ImageSource, open_source
from imagebuilder.card.write import NO_NODE, FlashJob, Target
from imagebuilder.cli.completed_cards import completed_notes, remember_completed
from imagebuilder.cli.disk_notes import each_card, link_notes, rights_notes
from imagebuilder.cli.fixed_disks import insist
from imagebuilder.cli.format import size
from imagebuilder.cli.history import cluster_of, earlier_on, events_of, recorder_for
from imagebuilder.cli.output import ask, at_terminal, confirmed, echo, echo_json, echo_verdicts
from imagebuilder.cli.reinserting import Looked, look_again
from imagebuilder.cli.report_file import ReportFile
from imagebuilder.cli.session import Session, node_notes
from imagebuilder.cli.signals import INTERRUPTED, GracefulStop
from imagebuilder.cli.tables import table
from imagebuilder.cli.verdicts import advice, describe
from imagebuilder.device import policy, usb
from imagebuilder.device.discovery import Disk
from imagebuilder.device.eject import power_down
from imagebuilder.device.holders import unmount
from imagebuilder.device.inventory import Candidate, check_rights, survey_again
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.history.recorder import PlannedRun, Recorder, planned_run
from imagebuilder.history.store import Event, runs_of
from imagebuilder.history.warnings import notes_from, past, suspected
from imagebuilder.reading import check_regular

SOME_FAILED = 3  # exit code


@dataclass(frozen=True)
class Choice:
    """One card and what is written to it. ``node`` is empty for an image file of the user."""

    candidate: Candidate
    source: ImageSource
    node: str = ""

    @property
    def wanted(self) -> tuple[Disk, str, str]:
        """The card, the node, and the tree digest of what it gets."""
        return self.candidate.disk, self.node, self.source.tree_digest


@dataclass(frozen=True)
class WriteOptions:
    """The options that all commands for writing have.

    ``again``: also write cards that were bad before; ``paranoid``: read everything once more after the last
    write; ``reinsert``: read the cards once more after they were reinserted; ``fixed``: the serial of a fixed
    disk that is accepted as a card.
    """

    yes: bool = False
    verify: bool = True
    full: bool = False
    virtual: bool = False
    jobs: int | None = None
    eject: bool = False
    again: bool = False
    paranoid: bool = False
    reinsert: bool = False
    fixed: str | None = None


@dataclass(frozen=True)
class FlashOutcome:
    """The result: the reports, the nodes without a good card, and whether the user stopped the run."""

    done: Sequence[CardReport]
    remaining: Sequence[str] = ()
    stopped: bool = False


def read_source(session: Session, image: Path, given: Path | None = None) -> ImageSource:
    """Open an image and show the progress: without a block map all of it is read. Raises PiimgError.

    ``given`` is the file that it was unpacked from, if any.
    """
    try:
        check_regular(image)  # opening a pipe would wait
    except OSError as error:
        raise UsageError(f"{image}: {error.strerror}", "name an image file") from error
    try:
        return open_source(image, session.reporter, given)
    finally:
        session.settle()  # a question may be next


def write_cards(
    session: Session,
    graceful: GracefulStop,
    choices: Sequence[Choice],
    how: WriteOptions,
    notes: Sequence[str] = (),
    handled: dict[str, Identity] | None = None,
) -> list[CardReport]:
    """Check the cards, show what would be done, ask, and write. UsageError before anything is written.

    ``handled`` receives the identity of the card in each slot afterwards: for the kernel, a reinserted card
    is another one. Until the writing begins a signal interrupts; from then on it stops gracefully.
    """
    events = events_of(session)
    with graceful.interruptible():
        choices, jobs = _agreed(session, choices, how, notes, events)
    disks = [job.disk for job in jobs]
    _announce(session, jobs)
    turn = {disk.number: at for at, disk in enumerate(usb.order_for_jobs(disks))}
    in_turn = sorted(jobs, key=lambda job: turn[job.disk.number])
    recorder = recorder_for(session, [planned(choice) for choice in choices])
    by_device = {str(disk.node): disk for disk in disks}

    def each(report: CardReport) -> None:
        if recorder:
            recorder.ended(report)
        report = suspected(report, events, by_device[report.device])
        session.reporter.judged(report, advice(report, how.reinsert))

    try:
        done = batch.run(in_turn, recorder or session.reporter, session.stop, how.jobs, each)
        reports = {job.disk.number: report for job, report in zip(in_turn, done, strict=True)}
        written = [(job, suspected(reports[job.disk.number], events, job.disk)) for job in jobs]
        looked = [(job.disk, report) for job, report in written]
        if how.reinsert:
            looked = _looked_again(session, choices, written, how, recorder)
            for _, report in looked:
                session.reporter.judged(report, advice(report))
    finally:
        graceful.work_ended()
        session.settle()
    cards = [(disk, *choice.wanted[1:]) for choice, (disk, _) in zip(choices, looked, strict=True)]
    remember_completed(session, cards, [report for _, report in looked])
    if how.eject:
        _power_down(session, [disk for disk, report in looked if report.verdict is Verdict.GOOD])
    if handled is not None:
        handled.update({disk.slot: disk.identity for disk, _ in looked})
    return [report for _, report in looked]


def _agreed(
    session: Session,
    choices: Sequence[Choice],
    how: WriteOptions,
    notes: Sequence[str],
    events: Sequence[Event],
) -> tuple[list[Choice], list[FlashJob]]:
    """Judge the cards, show what would be done, and ask. Gives the cards as they are now, and the jobs.

    Raises UsageError for a no, and for a card that may not be written to.
    """
    for choice in choices:
        check(choice.candidate, choice.source.size, how)
    disks = [choice.candidate.disk for choice in choices]
    pasts = {disk.number: past(runs_of(events, disk), disk) for disk in disks}
    bad = [f"{disk.node}: {said}: a fake?" for disk in disks if (said := pasts[disk.number].bad)]
    known = notes_from((disk, replace(pasts[disk.number], bad="")) for disk in disks)
    gets = [(choice.candidate, choice.node or Path(choice.source.label).name) for choice in choices]
    notes = [*notes, *node_notes(session, [choice.node for choice in choices]), *known]
    notes += completed_notes(session, [choice.wanted for choice in choices])
    links = link_notes(
        [(choice.candidate.disk, choice.source.body) for choice in choices], how.verify, how.jobs
    )
    insist(disks, at_terminal())
    about = [] if how.yes and not bad else each_card(gets, cluster_of(session))
    with asking(session, question_about(gets) if about else "", about):
        notes = [*notes, *links, *rights_notes(disks)]
        confirm(gets, notes, how, bad, cluster_of(session), before=session.show_code)
    needs = [(choice.candidate, choice.source.size) for choice in choices]
    now = after_the_question(needs, how)
    choices = [replace(one, candidate=card) for one, card in zip(choices, now, strict=True)]
    return choices, [
        job_for(session, one, how, bool(pasts[one.candidate.disk.number].bad)) for one in choices
    ]


def job_for(session: Session, choice: Choice, how: WriteOptions, bad: bool) -> FlashJob:
    """The job for a card. A card that was ``bad`` before is written and read back as a whole."""
    full = how.full or bad
    return FlashJob(
        disk=choice.candidate.disk,
        source=choice.source,
        target=Target(choice.node, choice.source.cluster) if choice.node else NO_NODE,
        verify=how.verify or bad,
        full=full,
        paranoid=how.paranoid,
        earlier=() if full else earlier_on(session, choice.candidate.carried),
    )


def _looked_again(
    session: Session,
    choices: Sequence[Choice],
    written: Sequence[tuple[FlashJob, CardReport]],
    how: WriteOptions,
    recorder: Recorder | None,
) -> list[Looked]:
    """Read the cards once more after they were taken out and put in again."""
    plans = {choice.candidate.disk.number: planned(choice) for choice in choices}

    def note(job: FlashJob, disk: Disk, report: CardReport) -> None:
        if recorder is not None:
            recorder.was_read(replace(plans[job.disk.number], disk=disk), report, "reinserted")

    return look_again(session, written, how.virtual, note)


def _announce(session: Session, jobs: Sequence[FlashJob]) -> None:
    """Tell the renderer which cards there will be: by node, and by slot, which says where each is."""
    width = max(len(job.target.node) for job in jobs)
    for job in jobs:
        title = f"{job.target.node:<{width}} {job.disk.slot}".strip()
        where = {"slot": job.disk.slot, "node": job.target.node or Path(job.source.label).name}
        session.reporter.expect(str(job.disk.node), job.source.body, title, data=where)


def planned(choice: Choice) -> PlannedRun:
    """The entry of the history for a card that is about to be written."""
    return planned_run(choice.candidate.disk, choice.source, choice.node)


def _power_down(session: Session, disks: Sequence[Disk]) -> None:
    """Power down the good cards after the writing, and print the result for each.

    Nothing is raised, so that the verdicts are not lost.
    """
    say = session.reporter.say
    for disk in disks:
        try:
            power_down(disk)
            say(f"{disk.node} ({disk.slot}) is powered down: take it out")
        except PiimgError as error:
            hint = f" ({error.hint})" if error.hint else ""
            say(f"note: {error.message}{hint}")
        except OSError as error:  # the reader was unplugged
            say(f"note: {disk.node} is not powered down: {error.strerror}")


def check(card: Candidate, need: int | None, how: WriteOptions) -> None:
    """Raise UsageError when a card may not be written to; ``need`` is the size it must have in bytes."""
    policy.check(card.disk, card.holdings, need, how.virtual)
    check_rights(card.disk, how.paranoid)


def confirm(
    cards: Sequence[tuple[Candidate, str]],
    notes: Sequence[str],
    how: WriteOptions,
    bad: Sequence[str] = (),
    cluster: str = "",
    before: Callable[[], None] = lambda: None,
) -> None:
    """Show the cards and what each gets, and ask. ``before`` is called just before the question.

    ``bad`` has messages about cards that were bad before: these need a confirmation in full.
    Raises UsageError when the answer is no, and when there is no terminal.
    """
    echo(overview(cards, cluster), err=True)
    points = [held.point for card, _ in cards for held in card.holdings if held.desktop]
    if points:
        echo(f"unmounted first: {', '.join(points)}", err=True)
    card_notes = (note for card, _ in cards for note in card.notes)
    for note in (*(bad if how.again else ()), *card_notes, *notes):
        echo(f"note: {note}", err=True)
    question = question_about(cards)
    if bad and not how.again:
        _insist(bad, question, before)
    else:
        agree(how, question, before)


def question_about(cards: Sequence[object]) -> str:
    """The question before ``cards`` are written."""
    return f"Erase {'this card' if len(cards) == 1 else f'these {len(cards)} cards'}?"


@contextlib.contextmanager
def asking(session: Session, text: str, about: Sequence[str] = ()) -> Iterator[None]:
    """In the block this question is open at the terminal, and the page says so; none if it is empty.

    ``about`` are the cards that it is about, a line each.
    """
    session.reporter.asks(text, about)
    try:
        yield
    finally:
        session.reporter.asks("")


def after_the_question(cards: Sequence[tuple[Candidate, int | None]], how: WriteOptions) -> list[Candidate]:
    """Check the confirmed cards again, and unmount partitions that a desktop mounted.

    A question may be open for long. ``cards`` has each card with its required size in bytes. Raises
    UsageError when one may not be written any more, or is another card; nothing is unmounted then.
    """
    now = survey_again((card for card, _ in cards), how.virtual)
    for card, (_, need) in zip(now, cards, strict=True):
        check(card, need, how)
    for card in now:
        unmount(card.holdings)
    return now


def overview(cards: Sequence[tuple[Candidate, str]], cluster: str = "") -> str:
    """A table of the cards and what each gets."""
    heads = ("DEVICE", "SLOT", "SIZE", "MODEL", "SERIAL", "CARRIES", "GETS")
    rows = []
    for card, gets in cards:
        disk = card.disk
        cells = (disk.slot, size(disk.size), disk.model, disk.serial, card.carries(cluster))
        rows.append((str(disk.node), *cells, gets))
    return table(heads, rows)


def agree(how: WriteOptions, question: str, before: Callable[[], None] = lambda: None) -> None:
    """Ask, unless --yes was given; ``before`` that. Raises UsageError for a no, and without a terminal."""
    if how.yes:
        before()
        return
    if not at_terminal():
        raise UsageError("refused: there is no terminal to ask at", "check the table, then add --yes")
    before()
    _discard_typed_keys()
    if not confirmed(question):
        raise UsageError("nothing was written", "to write, answer the question with yes")


def _insist(bad: Sequence[str], question: str, before: Callable[[], None]) -> None:
    """Ask about cards that were bad before, also with --yes.

    Raises UsageError unless "yes" is typed in full.
    """
    if not at_terminal():
        raise UsageError(
            "; ".join(bad),
            "use another card, or write and read it back as a whole with --again",
        )
    before()
    _discard_typed_keys()
    text = "\n".join([*bad, f"{question} Type yes in full to write and read back the whole card [yes/N]"])
    if ask(text, otherwise="").strip().lower() != "yes":
        raise UsageError("nothing was written", "to write, answer the question with yes")


def _discard_typed_keys() -> None:
    """Discard keys that were typed before the question."""
    with contextlib.suppress(termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def finish(outcome: FlashOutcome, saved: ReportFile | None, as_json: bool, after: str = "") -> None:
    """Save and print the report, and ``after`` it, then exit with its exit code.

    If the report is saved to standard output, the table is printed on standard error. To be called within the
    ``graceful_stop`` of the run: a signal must not cut the report off.
    """
    if saved is not None:
        saved.save(outcome.done, outcome.remaining)
    if as_json:
        echo_json(reports.document(outcome.done, outcome.remaining))
    else:
        aside = saved is not None and saved.is_stdout
        if outcome.done:
            echo_verdicts(describe(outcome.done), err=aside)
        if outcome.remaining:
            echo(f"nodes without a good card: {', '.join(outcome.remaining)}", err=aside)
        if after:
            echo(after, err=True)
    code = exit_code(outcome)
    if code:
        raise click.exceptions.Exit(code)


def exit_code(outcome: FlashOutcome) -> int:
    """0 when every node or card was written as requested, 130 when the run was stopped, else 3."""
    cut_off = any(card.verdict is Verdict.INTERRUPTED or card.reinserted is False for card in outcome.done)
    if outcome.stopped or cut_off:
        return INTERRUPTED
    last = {card.node or card.device: card for card in outcome.done}  # a node may have got another card
    return SOME_FAILED if outcome.remaining or not all(card.done for card in last.values()) else 0
