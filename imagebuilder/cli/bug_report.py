"""One file for a bug report: versions, host, cards, the end of the log, the last report; no secrets."""

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imagebuilder import diagnostics
from imagebuilder.cli.log import tail
from imagebuilder.cli.output import json_text
from imagebuilder.cli.session import Session
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.requirements.host import Host
from imagebuilder.system import files

ABOUT = (
    "Read this before you send it. It contains the name of this machine, names of files and folders, "
    "the serial numbers of readers and cards, and the log with names and addresses of nodes. "
    "It contains no password, passphrase or private key."
)

_LOG_LIMIT = 256 << 10  # bytes
_REPORTS = ("flash-report.json", "station-report.json")


def check(target: Path) -> None:
    """Raise UsageError unless a report may be written to ``target``."""
    if str(target) == "-":
        raise UsageError("the report goes to a file, not to standard output", "name a file after --report")
    try:
        files.check(target)
    except OSError as error:
        raise _unwritable(target, error) from error


def write(
    session: Session, target: Path, host: Host, findings: Mapping[str, object], log: Path | None
) -> None:
    """Write the report to ``target``, mode 0600. ``findings`` are those of the doctor.

    A section that fails has its error instead. Raises UsageError when ``target`` cannot be written.
    """
    document = {
        "format": 1,
        "about": ABOUT,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **_section(diagnostics.versions),
        "host": {**diagnostics.host(), "container": host.container, "root": host.root},
        "doctor": findings,
        "cards": _section(lambda: _cards(session)),
        "log": None if log is None else _section(lambda: {"file": str(log), "lines": tail(log, _LOG_LIMIT)}),
        "report": _section(lambda: _last_report(session)),
    }
    try:
        files.write(target, f"{json_text(document, 2)}\n".encode(), 0o600)
        files.hand_over(target, target.absolute().parent)
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> UsageError:
    hint = "name a file in a folder that you may write to"
    return UsageError(f"cannot write the report to {target}: {error.strerror}", hint)


def _section(make: Callable[[], Any]) -> Any:
    """The result of ``make``, or its error."""
    try:
        return make()
    except (PiimgError, OSError, ImportError, ValueError) as error:
        return {"error": str(error)}


def _cards(session: Session) -> Mapping[str, object]:
    from imagebuilder.cli.commands.cards import document_of  # libudev may be missing

    return document_of(session, virtual=False)


def _last_report(session: Session) -> Mapping[str, object] | None:
    """The newest report beside the node images."""
    folder = session.workspace.images if session.has_manifest else Path.cwd()
    there = [file for name in _REPORTS if (file := folder / name).is_file()]
    if not there:
        return None
    newest = max(there, key=lambda file: file.stat().st_mtime)
    return {"file": str(newest), "content": json.loads(read_regular(newest, SMALL))}
