"""`piimg cards --test`: the real capacity and speed of a card."""

from dataclasses import asdict, fields
from pathlib import Path

import click

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.surface_test import Exam, examine
from imagebuilder.cli.flashing import SOME_FAILED, WriteOptions, after_the_question, check, confirm
from imagebuilder.cli.format import duration, size
from imagebuilder.cli.history import notes_on, recorder_for
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import INTERRUPTED, GracefulStop, graceful_stop
from imagebuilder.cli.tables import table
from imagebuilder.device.discovery import disk_at
from imagebuilder.device.inventory import Candidate, survey
from imagebuilder.device.reference import DiskRef
from imagebuilder.history.recorder import PlannedRun

_WHAT = "full test"


def run_test(session: Session, device: Path, how: WriteOptions, as_json: bool) -> None:
    """Check the card, ask, test all of it, and exit with the code of its verdict."""
    with graceful_stop(session.stop, session.reporter) as graceful:
        with graceful.interruptible():
            (card,) = survey([disk_at(device)], how.virtual)
            check(card, None, how)
            note = f"all {size(card.disk.size)} of it are written and read back; all data on it is lost"
            confirm([(card, _WHAT)], [note, *notes_on(session, [card.disk])], how)
            (card,) = after_the_question([(card, None)], how)
        exam = _tested(session, graceful, card)
        echo_json({"format": 1, "test": _document(exam)}) if as_json else echo(_describe(exam))
    if exam.verdict is not Verdict.GOOD:
        raise click.exceptions.Exit(INTERRUPTED if exam.verdict is Verdict.INTERRUPTED else SOME_FAILED)


def _tested(session: Session, graceful: GracefulStop, card: Candidate) -> Exam:
    """Test all of a card, and keep the outcome in the history."""
    recorder = recorder_for(session, [PlannedRun(card.disk, "", _WHAT)])
    session.reporter.expect(str(card.disk.node), card.disk.size, f"{_WHAT} {card.disk.slot}")
    try:
        exam = examine(card.disk, recorder or session.reporter, session.stop)
        graceful.work_ended()
        if recorder is not None:
            recorder.ended(_report(exam))
    finally:
        session.settle()
    return exam


def _document(exam: Exam) -> dict[str, object]:
    return {name: value for name, value in asdict(exam).items() if name != "problem"}


def _describe(exam: Exam) -> str:
    heads = ("DEVICE", "SIZE", "KEPT", "TIME", "WRITE", "READ", "VERDICT")
    rates = [f"{size(int(rate))}/s" if rate else "" for rate in (exam.write_rate, exam.read_rate)]
    kept = size(exam.kept) if exam.kept else ""
    row = (exam.device, size(exam.size), kept, duration(exam.seconds), *rates, exam.verdict.value)
    problem = f"\n{exam.device}: {exam.problem}" if exam.error else ""
    place = f" (first at byte {exam.offset})" if exam.offset is not None else ""
    return table(heads, [row]) + problem + place + (f"\n    {exam.hint}" if exam.hint else "")


def _report(exam: Exam) -> CardReport:
    """The result as a report for the history."""
    return CardReport(
        **{field.name: getattr(exam, field.name) for field in fields(DiskRef)},
        node="",
        image=_WHAT,
        verdict=exam.verdict,
        seconds=exam.seconds,
        write_rate=exam.write_rate,
        read_rate=exam.read_rate,
        error=exam.error,
        problem=exam.problem,
        offset=exam.offset,
    )
