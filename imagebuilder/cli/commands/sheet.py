"""`piimg sheet`: a page of the cluster to look at and to print."""

import shlex
from pathlib import Path

from imagebuilder import export
from imagebuilder.cli.history import events_of
from imagebuilder.cli.next_steps import login_command
from imagebuilder.cli.output import echo
from imagebuilder.cli.report_file import ReportFile, beside, chosen
from imagebuilder.cli.session import Session
from imagebuilder.errors import PiimgError
from imagebuilder.history.batch import Batch, newest_of, read_batch
from imagebuilder.history.written import cards_by_node
from imagebuilder.pages.labels import Paper
from imagebuilder.pages.rendering import pdf
from imagebuilder.pages.sheet import Sheet, sheet_page
from imagebuilder.requirements.host import this_host
from imagebuilder.requirements.optional import pdf_fix
from imagebuilder.workspace import made_folder

FILE = "sheet.html"
REPORTS = ("flash-report.json", "station-report.json")


def sheet(session: Session, output: str | None, paper: str, via: str | None, report: Path | None) -> None:
    """Run ``piimg sheet``, called as ``usage/sheet.py`` says."""
    cluster, workspace = session.cluster, session.workspace
    target = None if output is None else chosen(output, False, "sheet", "--output")
    gateway = export.default_via(cluster) if via is None else export.via(via)
    cards = cards_by_node(events_of(session))
    page = sheet_page(
        Sheet(
            cluster=cluster,
            cards={node: written[0] for node, written in cards.items()},
            batch=_batch(session, report),
            via=gateway,
            login=login_command(cluster, workspace.keys(keep=False), gateway),
            paper=Paper(paper),
        )
    )
    as_pdf = output is not None and output.lower().endswith(".pdf")
    content = pdf(page, pdf_fix(this_host(Path.cwd()))) if as_pdf else page.encode()
    if target is None:
        target = beside(made_folder(workspace.images, workspace.folder) / FILE, workspace.folder)
    _save(target, content)


def _batch(session: Session, named: Path | None) -> Batch | None:
    """The report to show. One that was not named and is damaged is only a warning."""
    if named is not None:
        return read_batch(named)
    newest = newest_of(session.workspace.images / name for name in REPORTS)
    if newest is None:
        return None
    try:
        return read_batch(newest)
    except PiimgError as error:
        echo(f"warning: the sheet has no last batch: {error.message}", err=True)
        return None


def _save(target: ReportFile, content: bytes) -> None:
    try:
        target.write(content)
    except BrokenPipeError:
        raise  # its reader has ended, as for all other output: main.py
    except OSError as error:
        raise PiimgError(
            f"cannot save the sheet to {target.name}: {error.strerror}", "name another file: --output FILE"
        ) from error
    if not target.is_stdout:
        echo(f"{target.name}: open it with xdg-open {shlex.quote(target.name)}, and print it at 100 %")
