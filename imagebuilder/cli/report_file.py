"""The report of a run as a file: the target is checked before anything is done."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagebuilder.card import report as reports
from imagebuilder.card.report import CardReport
from imagebuilder.cli.output import echo
from imagebuilder.errors import UsageError
from imagebuilder.system import files
from imagebuilder.system.save_path import SavePlace, found

_STDOUT = Path("/proc/self/fd/1")


@dataclass(frozen=True)
class ReportFile:
    """The target of the report, and its name for messages.

    A stream is written once, at the end; a file may be replaced several times. Under sudo a file belongs to
    the owner of the folder ``home``.
    """

    path: Path
    name: str
    is_stream: bool = False
    is_stdout: bool = False
    home: Path | None = None

    def save(self, done: Sequence[CardReport], remaining: Sequence[str]) -> None:
        """Save the report. A failure, such as a full disk, is only a warning: the verdicts are printed."""
        try:
            reports.save(self.path, done, remaining)
            if self.home is not None and not self.is_stream:
                files.hand_over(self.path, self.home)
        except BrokenPipeError:
            pass  # its reader, such as head, has what it wanted
        except OSError as error:
            echo(f"warning: the report could not be saved to {self.name}: {error.strerror}", err=True)

    def write(self, content: bytes) -> None:
        """Save ``content``, such as a page. Raises OSError."""
        files.write(self.path, content, stream=True)
        if self.home is not None and not self.is_stream:
            files.hand_over(self.path, self.home)


def beside(path: Path, home: Path) -> ReportFile:
    """The default target of the report. If it is not usable, there is a warning when saving.

    Under sudo the report belongs to the owner of the cluster folder ``home``.
    """
    try:
        with found(path) as place:
            return replace(_at(path, str(path), place), home=home)
    except OSError:
        return ReportFile(path, str(path), home=home)


def chosen(name: str, as_json: bool, what: str = "report", option: str = "--report") -> ReportFile:
    """The target that ``option`` names; "-" is standard output. Raises UsageError if it is not usable."""
    path = _STDOUT if name == "-" else Path(name)
    shown = "standard output" if name == "-" else name
    try:
        with found(path) as place:
            if not place.is_stream and not os.access(f"/proc/self/fd/{place.folder}", os.W_OK):
                raise OSError(None, "its folder may not be written to")
            file = _at(path, shown, place)
    except OSError as error:
        raise UsageError(
            f"cannot save the {what} to {shown}: {error.strerror}", "name a file, or - for standard output"
        ) from error
    if file.is_stdout and as_json:
        raise UsageError(f"{option} {name} and --json would both print the {what}", "omit one of them")
    return file


def _at(path: Path, shown: str, place: SavePlace) -> ReportFile:
    return ReportFile(path, shown, place.is_stream, place.own == 1)
