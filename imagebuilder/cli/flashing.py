"""What the commands that write cards share: node images, the question, the report."""

import contextlib
import sys
import termios
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from imagebuilder.card import batch
from imagebuilder.card import report as reports
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.rounds import Identity
from imagebuilder.card.source import ImageSource, open_source
from imagebuilder.card.write import NO_NODE, FlashJob, Target
from imagebuilder.cli.disk_notes import link_notes, rights_notes
from imagebuilder.cli.format import duration, size
from imagebuilder.cli.history import cluster_of, earlier_on, events_of, recorder_for
from imagebuilder.cli.output import ask, confirmed, echo, echo_json
from imagebuilder.cli.reinserting import Looked, look_again
from imagebuilder.cli.report_file import ReportFile
from imagebuilder.cli.session import Session, node_notes
from imagebuilder.cli.signals import INTERRUPTED, hear_no_more, stopping
from imagebuilder.cli.tables import table
from imagebuilder.device import policy, usb
from imagebuilder.device.discovery import Disk
from imagebuilder.device.eject import power_down
from imagebuilder.device.holders import unmount
from imagebuilder.device.inventory import Candidate, check_rights, survey_again
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.history.recorder import PlannedRun, Recorder, planned_run
from imagebuilder.history.store import runs_of
from imagebuilder.history.warnings import notes_from, past, suspected
from imagebuilder.image.results import Results, built_image, read_document
from imagebuilder.reading import check_regular

SOME_FAILED = 3  # exit code
SUSPECT = (
    "the card or its reader may hold writes in a cache of its own:"
    " take it out, put it in, and run piimg verify"
)


@dataclass(frozen=True)
class Choice:
    """One card and what shall be written to it. ``node`` is empty for a file of the user's own."""

    candidate: Candidate
    source: ImageSource
    node: str = ""


@dataclass(frozen=True)
class WriteOptions:
    """How to write: the options that every way of flashing has.

    ``again``: also to cards that were bad before; ``paranoid``: read all once more after the last write;
    ``reinsert``: read them once more after they were out.
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


@dataclass(frozen=True)
class FlashOutcome:
    """What came out: the reports, the nodes that have no good card yet, and whether the user ended it."""

    done: Sequence[CardReport]
    remaining: Sequence[str] = ()
    stopped: bool = False


def read_source(session: Session, image: Path) -> ImageSource:
    """Take an image, showing how far that is: without a block map all of it is read. Raises PiimgError."""
    try:
        check_regular(image)  # a pipe would be waited for
    except OSError as error:
        raise UsageError(f"{image}: {error.strerror}", "name an image file") from error
    try:
        return open_source(image, session.reporter)
    finally:
        session.settle()  # a question may be next


def node_source(session: Session, folder: Path, node: str) -> ImageSource:
    """The node image of ``node``. Raises UsageError when it is not built, or not to the end."""
    return read_source(session, built_image(folder, node))


def at_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def write_cards(
    session: Session,
    choices: Sequence[Choice],
    how: WriteOptions,
    notes: Sequence[str] = (),
    handled: dict[str, Identity] | None = None,
) -> list[CardReport]:
    """Judge the cards, show what would be done, ask, and do it; UsageError before anything is written.

    ``handled`` takes in which card is in each slot afterwards: one that was put in again is another to the
    kernel.
    """
    for one in choices:
        check(one.candidate, one.source.size, how)
    disks = [one.candidate.disk for one in choices]
    events = events_of(session)
    pasts = {disk.number: past(runs_of(events, disk), disk) for disk in disks}
    bad = [f"{disk.node}: {said}: a fake?" for disk in disks if (said := pasts[disk.number].bad)]
    known = notes_from((disk, replace(pasts[disk.number], bad="")) for disk in disks)
    gets = [(one.candidate, one.node or one.source.path.name) for one in choices]
    notes = [*notes, *node_notes(session, [one.node for one in choices]), *known]
    links = link_notes([(one.candidate.disk, one.source.body) for one in choices], how.verify, how.jobs)
    confirm(gets, [*notes, *links, *rights_notes(disks)], how, bad)
    needs = [(one.candidate, one.source.size) for one in choices]
    now = after_the_question(needs, how)
    choices = [replace(one, candidate=card) for one, card in zip(choices, now, strict=True)]
    jobs = [job_for(session, one, how, bool(pasts[one.candidate.disk.number].bad)) for one in choices]
    _announce(session, jobs)
    turn = {disk.number: at for at, disk in enumerate(usb.order_for_jobs(disks))}
    in_turn = sorted(jobs, key=lambda job: turn[job.disk.number])
    recorder = recorder_for(session, [planned(one) for one in choices])
    try:
        with stopping(session.stop, session.reporter):
            each = recorder.ended if recorder else None
            done = batch.run(in_turn, recorder or session.reporter, session.stop, how.jobs, each)
            reports = {job.disk.number: report for job, report in zip(in_turn, done, strict=True)}
            written = [(job, suspected(reports[job.disk.number], events, job.disk)) for job in jobs]
            looked = [(job.disk, report) for job, report in written]
            if how.reinsert:
                looked = _looked_again(session, choices, written, how, recorder)
    finally:
        session.settle()
    if how.eject:
        _power_down(session, [disk for disk, report in looked if report.verdict is Verdict.GOOD])
    if handled is not None:
        handled.update({disk.slot: disk.identity for disk, _ in looked})
    return [report for _, report in looked]


def job_for(session: Session, choice: Choice, how: WriteOptions, bad: bool) -> FlashJob:
    """What is to be done to a card. One that was ``bad`` before is written and read back whole."""
    full = how.full or bad
    return FlashJob(
        disk=choice.candidate.disk,
        source=choice.source,
        target=Target(choice.node, _cluster(session, choice)) if choice.node else NO_NODE,
        verify=how.verify or bad,
        full=full,
        paranoid=how.paranoid,
        earlier=() if full else earlier_on(session, choice.candidate.carried),
    )


def _cluster(session: Session, choice: Choice) -> str:
    """The cluster of the node that a card gets: the manifest's, else what its image was built for."""
    known = cluster_of(session)
    with contextlib.suppress(PiimgError):
        known = known or str(read_document(Results(choice.source.path.parent, choice.node).json)["cluster"])
    return known


def _looked_again(
    session: Session,
    choices: Sequence[Choice],
    written: Sequence[tuple[FlashJob, CardReport]],
    how: WriteOptions,
    recorder: Recorder | None,
) -> list[Looked]:
    """Read the cards once more after they were taken out and put in again."""
    plans = {one.candidate.disk.number: planned(one) for one in choices}

    def note(job: FlashJob, disk: Disk, report: CardReport) -> None:
        if recorder is not None:
            recorder.was_read(replace(plans[job.disk.number], disk=disk), report, "reinserted")

    return look_again(session, written, how.virtual, note)


def _announce(session: Session, jobs: Sequence[FlashJob]) -> None:
    """Tell the renderer which cards there will be: by node, and by slot, which says where each is."""
    width = max(len(job.target.node) for job in jobs)
    for job in jobs:
        title = f"{job.target.node:<{width}} {job.disk.slot}".strip()
        session.reporter.expect(str(job.disk.node), job.source.body, title)


def planned(choice: Choice) -> PlannedRun:
    """What the history is told of a card that is about to be written."""
    return planned_run(choice.candidate.disk, choice.source, choice.node)


def _power_down(session: Session, disks: Sequence[Disk]) -> None:
    """Power down the cards that are good, now that nothing is being written; say of each whether it is.

    Nothing is raised: that would cost the user the verdicts.
    """
    say = session.reporter.say
    for disk in disks:
        try:
            power_down(disk)
            say(f"{disk.node} ({disk.slot}) is powered down: take it out")
        except PiimgError as error:
            hint = f" ({error.hint})" if error.hint else ""
            say(f"note: {error.message}{hint}")
        except OSError as error:  # a reader that goes meanwhile
            say(f"note: {disk.node} is not powered down: {error.strerror}")


def check(card: Candidate, need: int | None, how: WriteOptions) -> None:
    """Raise UsageError when a card may not be written to; ``need`` is the size it must have in bytes."""
    policy.check(card.disk, card.holdings, need, how.virtual)
    check_rights(card.disk, how.paranoid)


def confirm(
    cards: Sequence[tuple[Candidate, str]], notes: Sequence[str], how: WriteOptions, bad: Sequence[str] = ()
) -> None:
    """Show the cards and what each gets, and ask.

    ``bad`` says of some of them that they were bad before: those are written to only if somebody insists.
    Raises PiimgError when they may not be erased, UsageError when there is nobody to ask.
    """
    echo(overview(cards), err=True)
    points = [held.point for card, _ in cards for held in card.holdings if held.desktop]
    if points:
        echo(f"unmounted first: {', '.join(points)}", err=True)
    said = (note for card, _ in cards for note in card.notes)
    for note in (*(bad if how.again else ()), *said, *notes):
        echo(f"note: {note}", err=True)
    question = f"Erase {'this card' if len(cards) == 1 else f'these {len(cards)} cards'}?"
    if bad and not how.again:
        _insist(bad, question)
    else:
        agree(how, question)


def after_the_question(cards: Sequence[tuple[Candidate, int | None]], how: WriteOptions) -> list[Candidate]:
    """Look again at cards that may be erased, and unmount what a desktop mounted of them.

    A question may be open for long. With each card comes the size it must have in bytes. Raises UsageError
    when one may not be written any more, or is another one; nothing is unmounted then.
    """
    now = survey_again((card for card, _ in cards), how.virtual)
    for card, (_, need) in zip(now, cards, strict=True):
        check(card, need, how)
    for card in now:
        unmount(card.holdings)
    return now


def overview(cards: Sequence[tuple[Candidate, str]]) -> str:
    """A table of cards, and what each gets."""
    heads = ("DEVICE", "SLOT", "SIZE", "MODEL", "SERIAL", "CARRIES", "GETS")
    rows = []
    for card, gets in cards:
        disk = card.disk
        cells = (disk.slot, size(disk.size), disk.model, disk.serial, card.carried.node)
        rows.append((str(disk.node), *cells, gets))
    return table(heads, rows)


def agree(how: WriteOptions, question: str) -> None:
    """Ask, unless that was answered beforehand. PiimgError for a no; UsageError with nobody to ask."""
    if how.yes:
        return
    if not at_terminal():
        raise UsageError("refused: there is no terminal to ask at", "look at the table, then add --yes")
    _forget_what_was_typed()
    if not confirmed(question):
        raise PiimgError("nothing was written", "to write, answer the question with yes")


def _insist(bad: Sequence[str], question: str) -> None:
    """Ask about cards that were bad before, whatever --yes said of cards in general.

    Raises PiimgError unless "yes" is typed in full, UsageError with nobody to ask.
    """
    if not at_terminal():
        raise UsageError(
            "; ".join(bad),
            f"take another card, or write and read back all of {'it' if len(bad) == 1 else 'them'}: --again",
        )
    _forget_what_was_typed()
    text = "\n".join([*bad, f"{question} Written and read back whole, if you type yes in full [yes/N]"])
    if ask(text, otherwise="").strip().lower() != "yes":
        raise PiimgError("nothing was written", "to write, answer the question with yes")


def _forget_what_was_typed() -> None:
    """What was typed before the question was read is no answer to it."""
    with contextlib.suppress(termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def finish(outcome: FlashOutcome, saved: ReportFile | None, as_json: bool) -> None:
    """Save and print the report, then leave with the exit code it deserves.

    Where it is saved to standard output the table goes to standard error.
    """
    hear_no_more()
    if saved is not None:
        saved.save(outcome.done, outcome.remaining)
    if as_json:
        echo_json(reports.document(outcome.done, outcome.remaining))
    else:
        aside = saved is not None and saved.is_stdout
        if outcome.done:
            echo(describe(outcome.done), err=aside)
        if outcome.remaining:
            echo(f"without a good card yet: {', '.join(outcome.remaining)}", err=aside)
    code = exit_code(outcome)
    if code:
        raise click.exceptions.Exit(code)


def exit_code(outcome: FlashOutcome) -> int:
    """0 when every node or card came out as was asked for, 130 when it was stopped, else 3."""
    cut_off = any(one.verdict is Verdict.INTERRUPTED or one.reinserted is False for one in outcome.done)
    if outcome.stopped or cut_off:
        return INTERRUPTED
    last = {one.node or one.device: one for one in outcome.done}  # a node may have got another card
    return SOME_FAILED if outcome.remaining or not all(one.done for one in last.values()) else 0


def describe(done: Sequence[CardReport]) -> str:
    """The report as a table, and below it what went wrong and where."""
    kept = any(one.skipped for one in done)  # then there is no room for what was read back: what was written
    heads = ("DEVICE", "NODE", "WRITTEN", "KEPT" if kept else "READ BACK", "TIME", "WRITE", "READ", "VERDICT")
    lines = [table(heads, [_row(one, kept) for one in done])]
    same: dict[str, list[str]] = {}  # what befell several cards alike, such as Ctrl-C, is said once
    for one in done:
        if one.error:
            said = f"{one.problem}{_place(one)}" + (f"\n    {one.hint}" if one.hint else "")
            same.setdefault(said, []).append(one.device)
        elif one.retries:
            said = f"it took {one.retries} more tries, and is right in the end"
            same.setdefault(said, []).append(one.device)
        if one.suspect_cache and not one.reinserted:
            same.setdefault(SUSPECT, []).append(one.device)
    lines += [f"{', '.join(devices)}: {said}" for said, devices in same.items()]
    return "\n".join(lines)


def _place(one: CardReport) -> str:
    if one.partition is None:
        return ""
    return f" (partition {one.partition}{', ' if one.file else ''}{one.file})"


def _row(one: CardReport, kept: bool) -> tuple[str, ...]:
    rates = [f"{size(int(rate))}/s" if rate else "" for rate in (one.write_rate, one.read_rate)]
    counted = (one.written, one.skipped if kept else one.read_back)
    counts = [size(count) if count else "" for count in counted]
    time = duration(one.seconds)
    return (one.device, one.node, *counts, time, *rates, one.verdict.value)
