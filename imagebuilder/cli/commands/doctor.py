"""`piimg doctor`: show what is missing for each use of piimg, and the command that fixes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from imagebuilder.cli import bug_report
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.session import Session
from imagebuilder.requirements.host import Lack, Note, this_host
from imagebuilder.requirements.uses import USES, look

_NO_LOG = (
    "note: it has no log; run the command that fails with --log-file piimg.log, then\n"
    "    piimg --log-file piimg.log doctor --report FILE"
)

Findings = Mapping[str, Sequence[Lack | Note]]


def doctor(context: click.Context, uses: tuple[str, ...], as_json: bool, report: Path | None) -> None:
    """Run ``piimg doctor``, called as ``usage/doctor.py`` says."""
    session: Session = context.obj
    log = context.find_root().params.get("log_file")
    if report is not None:
        bug_report.check(report)
    host = this_host(session.workspace.images if session.has_manifest else Path.cwd())
    found = {use: look(USES[use], host) for use in USES if use in uses or not uses}
    optional = {use: USES[use].optional for use in found if not uses and USES[use].optional}
    document = _document(found, optional)
    echo_json(document) if as_json else echo(_text(found, optional))
    if report is not None:
        bug_report.write(session, report, host, document, log)
        echo(f"{report} is written: read it before you send it", err=True)
        if log is None:
            echo(_NO_LOG, err=True)
    if not document["ready"]:
        context.exit(1)


def _ready(findings: Sequence[Lack | Note]) -> bool:
    return not any(isinstance(finding, Lack) for finding in findings)


def _text(found: Findings, optional: Mapping[str, str]) -> str:
    lines = []
    for use, findings in found.items():
        when = f" ({optional[use]})" if use in optional else ""
        lines.append(f"{use}: {'ready' if _ready(findings) else f'not ready{when}'}")
        for finding in findings:
            if isinstance(finding, Lack):
                lines += [f"  {finding.what}", f"      {finding.fix}"]
            else:
                lines.append(f"  note: {finding.what}")
    return "\n".join(lines)


def _document(found: Findings, optional: Mapping[str, str]) -> Mapping[str, object]:
    return {
        "format": 1,
        "ready": all(_ready(findings) for use, findings in found.items() if use not in optional),
        "uses": [
            {
                "use": use,
                "ready": _ready(findings),
                "optional": use in optional,
                "missing": [
                    {"what": finding.what, "fix": finding.fix}
                    for finding in findings
                    if isinstance(finding, Lack)
                ],
                "notes": [finding.what for finding in findings if isinstance(finding, Note)],
            }
            for use, findings in found.items()
        ],
    }
