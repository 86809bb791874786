"""The verdict on each card, and the report that ``piimg flash`` prints and saves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from imagebuilder.card.io import BadCard
from imagebuilder.card.progress import Rate
from imagebuilder.device.reference import DiskRef
from imagebuilder.errors import DeviceError, Interrupted, PiimgError
from imagebuilder.system import files
from imagebuilder.version import __version__


class Verdict(StrEnum):
    """The judgement on a card. Only ``GOOD`` says that every byte in use was read back and found right."""

    GOOD = "good"
    BAD = "bad"  # it returned wrong data or a read error
    FAILED = "failed"  # it could not be opened, written to, or flushed; or the image was at fault
    INTERRUPTED = "interrupted"
    UNVERIFIED = "unverified"  # written, but not read back, as requested
    OLDER = "older"  # it contains an earlier image of its node; only `piimg verify` says so


def verdict_of(error: Exception, device: str) -> tuple[Verdict, PiimgError]:
    """The verdict when ``error`` ended the job of a card, and the error to report.

    No error, such as one of a card that was removed between two system calls, may prevent the reports of the
    other cards. The traceback is dropped: its frames refer to the buffers of the card, several MiB that only
    a late garbage collection would free.
    """
    error.with_traceback(None)
    match error:
        case Interrupted():
            return Verdict.INTERRUPTED, error
        case BadCard():
            return Verdict.BAD, error
        case PiimgError():
            return Verdict.FAILED, error
    return Verdict.FAILED, DeviceError(device, repr(error), "try again", joint=": ")


def problem_of(error: PiimgError) -> str:
    """The error message without the name of the card, for output that already names the card."""
    return error.problem if isinstance(error, DeviceError) else error.message


class WriteMode(StrEnum):
    """How a card was written."""

    ALL = "all"  # everything in use: the card contained something else, or --full was given
    DIFFERENCES = "differences"  # only what differed
    NOTHING = "nothing"  # it already contained everything: it was only read


@dataclass(frozen=True)
class CardReport(DiskRef):
    """One card of a batch. Sizes in bytes, rates in bytes per second, ``seconds`` from opening to closing.

    ``skipped`` are the bytes in use that were not written because the card already contained them;
    ``read_back`` those that were read after the writing. ``rates`` are the rates over time: seconds since the
    beginning, the task, bytes per second. ``retries`` counts the repeated operations. ``offset`` is the first
    bad byte, ``partition`` the number of its partition, and ``file`` the file it belongs to, if the file
    system says so. ``mode`` is None when the job ended before it was known. ``reinserted`` is True when the
    verdict is from reading the card after it was removed and inserted again, False when this was requested
    and did not happen, None when it was not requested. ``suspect_cache``: the card or its reader may keep
    writes in a volatile cache, which shows only after a loss of power. ``problem`` is ``error`` without the
    name of the card; it is not part of the JSON.
    """

    node: str
    image: str
    verdict: Verdict
    mode: WriteMode | None = None
    written: int = 0
    skipped: int = 0
    read_back: int = 0
    seconds: float = 0.0
    write_rate: float = 0.0
    read_rate: float = 0.0
    rates: tuple[Rate, ...] = ()
    retries: int = 0
    error: str = ""
    hint: str = ""
    offset: int | None = None
    partition: int | None = None
    file: str = ""
    reinserted: bool | None = None
    suspect_cache: bool = False
    problem: str = ""

    @property
    def done(self) -> bool:
        """Whether the card has the requested result: good, or written without read-back as requested."""
        return self.verdict in (Verdict.GOOD, Verdict.UNVERIFIED)


def document(reports: Sequence[CardReport], remaining: Sequence[str] = ()) -> dict[str, object]:
    """The report as data for JSON; ``remaining`` are the nodes without a card."""
    return {
        "format": 1,
        "tool": f"piimg {__version__}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cards": [_document(report) for report in reports],
        "remaining": list(remaining),
    }


def _document(report: CardReport) -> dict[str, object]:
    return {name: value for name, value in asdict(report).items() if name != "problem"}


def save(path: Path, reports: Sequence[CardReport], remaining: Sequence[str] = ()) -> None:
    """Save the report; a regular file is replaced atomically. Raises OSError."""
    files.write_json(path, document(reports, remaining), stream=True)
