"""The report of the last run of ``piimg flash`` or ``piimg station``, read back from its file.

The file is in the user's folder, but may be anything: only what has the form of a report is used.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagebuilder.card.report import Verdict
from imagebuilder.errors import PiimgError
from imagebuilder.history.store import Count, Measure
from imagebuilder.reading import LARGE, open_regular, read_to

_POINTS = 10_000  # rates over time of a card; the report has 240 at most
_CARDS = 1000

Text = Annotated[str, Field(max_length=4096)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BatchCard(_Form):
    """One card of the report; sizes in bytes, rates in bytes per second, as in ``CardReport``."""

    device: Text
    slot: Text
    model: Text
    serial: Text
    size: Count
    node: Text
    verdict: Verdict
    written: Count = 0
    skipped: Count = 0
    read_back: Count = 0
    seconds: Measure = 0.0
    write_rate: Measure = 0.0
    read_rate: Measure = 0.0
    rates: Annotated[tuple[tuple[Measure, Text, Count], ...], Field(max_length=_POINTS)] = ()
    retries: Count = 0
    error: Text = ""
    hint: Text = ""
    offset: Count | None = None
    partition: Count | None = None
    file: Text = ""


class Batch(_Form):
    """The report of a run: when it ended (ISO 8601), its cards, and the nodes without a card."""

    format: Literal[1]
    time: Text
    cards: Annotated[tuple[BatchCard, ...], Field(max_length=_CARDS)]
    remaining: Annotated[tuple[Text, ...], Field(max_length=_CARDS)] = ()


def read_batch(file: Path) -> Batch:
    """The report in ``file``. Raises PiimgError when it cannot be read, or has not the form of a report."""
    try:
        with open_regular(file) as stream:
            return Batch.model_validate_json(read_to(stream, LARGE, file))
    except OSError as error:
        raise PiimgError(
            f"cannot read the report {file}: {error.strerror}", "name another: --report FILE"
        ) from error
    except (ValidationError, RecursionError) as error:
        raise PiimgError(
            f"{file} is not a report of piimg flash or piimg station", "name another: --report FILE"
        ) from error


def newest_of(files: Iterable[Path]) -> Path | None:
    """The file that was changed last; None when none of them exists."""
    found: list[tuple[float, Path]] = []
    for file in files:
        try:
            found.append((os.lstat(file).st_mtime, file))
        except OSError:
            continue
    return max(found)[1] if found else None
