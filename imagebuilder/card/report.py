"""What became of each card: the report that ``piimg flash`` prints and saves."""

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
    BAD = "bad"  # it does not give back what it should
    FAILED = "failed"  # it could not be opened, written to, or flushed; or the image was at fault
    INTERRUPTED = "interrupted"
    UNVERIFIED = "unverified"  # written, but not read back, as was asked for


def verdict_of(error: Exception, device: str) -> tuple[Verdict, PiimgError]:
    """The verdict when ``error`` ended the work on a card, and the error to report.

    Whatever it is, as when a card goes between two questions to the kernel, it must not cost the other
    cards their reports. Its frames are let go of: they hold the card's buffers, and it, MiB that only a late
    round of the collector would free.
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
    """What went wrong without the name of the card, for where that stands beside it."""
    return error.problem if isinstance(error, DeviceError) else error.message


class WriteMode(StrEnum):
    """How a card was written."""

    ALL = "all"  # all that is in use: it held something else, or --full was given
    DIFFERENCES = "differences"  # only what differed
    NOTHING = "nothing"  # it held everything already: it was only read


@dataclass(frozen=True)
class CardReport(DiskRef):
    """One card of a batch. Sizes in bytes, rates in bytes a second, ``seconds`` from opening to closing.

    ``skipped`` are the bytes in use that were not written because they were read from the card and found
    right; ``read_back`` those that were read after they were written. ``rates`` are those over time: seconds
    since the beginning, the task, bytes a second. ``retries`` counts what was tried again. ``offset`` is the
    first bad byte, ``partition`` the number of the partition it lies in, and ``file`` what it belongs to
    there, where the file system says so. ``mode`` is None when it did not come so far. ``reinserted`` is True
    when the verdict is of reading the card after it was taken out and put in again, False when that was asked
    for and did not come about, None when it was not asked for. ``suspect_cache``: the card or its reader may
    hold writes in a cache of its own, which nobody sees before the power goes. ``problem`` is ``error``
    without the name of the card; it is not part of the JSON.
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
        """Whether the card came out as was asked for."""
        return self.verdict in (Verdict.GOOD, Verdict.UNVERIFIED)


def document(reports: Sequence[CardReport], remaining: Sequence[str] = ()) -> dict[str, object]:
    """The report as data for JSON; ``remaining`` are the nodes that still have no card."""
    return {
        "format": 1,
        "tool": f"piimg {__version__}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cards": [_document(one) for one in reports],
        "remaining": list(remaining),
    }


def _document(report: CardReport) -> dict[str, object]:
    return {name: value for name, value in asdict(report).items() if name != "problem"}


def save(path: Path, reports: Sequence[CardReport], remaining: Sequence[str] = ()) -> None:
    """Save the report, atomically where it is a file. Raises OSError when that cannot be."""
    files.write_json(path, document(reports, remaining), stream=True)
