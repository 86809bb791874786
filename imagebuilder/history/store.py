"""The file of the card history: JSON lines in the cluster's state folder.

Each line is an event: a run on a card began, or it ended with a verdict. The history only causes warnings,
questions and more checks: a run that began and did not end was interrupted, and no data that it left on the
card is trusted.

An SD card in a built-in slot has its own serial. With USB the serial is the reader's, and the same for every
card in it: there the history is of cards of one size in one slot of one reader, and warnings say so.
"""

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.device.reference import DiskRef, reference
from imagebuilder.system import files
from imagebuilder.text import printable

FILE = "cards.jsonl"
LARGEST = 1 << 20  # bytes; beyond it the older half of the file is removed
_BAD_KEPT = LARGEST // 4  # bytes of that half that are kept: events about bad cards
_LONGEST = 16 << 10  # bytes per line
_TEXT = 500  # characters per text in a line
_PATIENCE = 5.0  # seconds to wait for the lock of another piimg

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _checked_time(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", text):
        raise ValueError("not a time in UTC")
    if not 1970 < datetime.fromisoformat(text).year < 9999:
        raise ValueError("the year is out of range")
    return text


Time = Annotated[str, AfterValidator(_checked_time)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Measure = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Look = Literal["", "verify", "reinserted"]
"""The read-only check that found a card bad: ``piimg verify``, or reading it after it was reinserted."""


@dataclass(frozen=True)
class Begun(DiskRef):
    """A run on a card began. ``run`` links it to its end, ``key`` identifies the card, ``size`` is in bytes.

    ``image`` is the tree digest of the node image, or else the name of the image; ``owner`` is the process.
    """

    size: Count
    run: str
    time: Time
    key: str
    node: str
    image: str = ""
    owner: str = ""
    event: Literal["begun"] = "begun"


@dataclass(frozen=True)
class Ended:
    """A run on a card ended, with values of its report; sizes in bytes, rates in bytes per second.

    ``look`` is empty when the card was written to.
    """

    run: str
    time: Time
    key: str
    size: Count
    node: str
    verdict: Verdict
    error: str = ""
    offset: Count | None = None
    seconds: Measure = 0.0
    written: Count = 0
    skipped: Count = 0
    read_back: Count = 0
    write_rate: Measure = 0.0
    read_rate: Measure = 0.0
    look: Look = ""
    event: Literal["ended"] = "ended"


Event = Begun | Ended
_LINES: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


@dataclass(frozen=True)
class Run:
    """One run on a card. One event may be missing: the run was interrupted, or its begin was removed."""

    begun: Begun | None = None
    ended: Ended | None = None

    @property
    def latest(self) -> Event:
        """The last known event of the run."""
        event = self.ended or self.begun
        assert event is not None, "a run has at least one event"
        return event

    @property
    def under_way(self) -> bool:
        """Whether the process that began the run is still running, and the run has not ended."""
        return self.ended is None and self.begun is not None and _alive(self.begun.owner)


def key_of(disk: Disk) -> str:
    """The key of the history of the card in ``disk``: its own serial if it has one, else the slot."""
    if disk.driver == "loop":
        return plain(f"file {disk.backing}")
    if has_own_serial(disk):
        return plain(f"sd {disk.model} {disk.serial}")
    return plain(f"{disk.driver} {disk.serial} {disk.slot}")


def has_own_serial(disk: Disk) -> bool:
    """Whether the card itself can be identified, and not only its slot."""
    return disk.driver == "loop" or (disk.sd and bool(disk.serial))


def plain(text: str) -> str:
    """``text`` made printable for the file and a terminal: parts of it may come from a device."""
    return printable(text, _TEXT, instead=" ")


def plain_reference(disk: Disk) -> DiskRef:
    """The names of ``disk``, each made printable for the file."""
    names = reference(disk)
    return replace(
        names,
        device=plain(names.device),
        slot=plain(names.slot),
        model=plain(names.model),
        serial=plain(names.serial),
    )


def now() -> str:
    """The present time (UTC, ISO 8601) for an event."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begun(disk: Disk, run: str, node: str, image: str) -> Begun:
    """The event for a run of this process that begins now on ``disk``."""
    return Begun(
        run=run,
        time=now(),
        key=key_of(disk),
        node=node,
        image=plain(image),
        owner=_owner(os.getpid()),
        **vars(plain_reference(disk)),
    )


def ended(start: Begun, report: CardReport, look: Look = "") -> Ended:
    """The event for the end of the run that began with ``start``."""
    return Ended(
        run=start.run,
        time=now(),
        key=start.key,
        size=start.size,
        node=start.node,
        verdict=report.verdict,
        error=plain(report.problem),
        offset=report.offset,
        seconds=report.seconds,
        written=report.written,
        skipped=report.skipped,
        read_back=report.read_back,
        write_rate=report.write_rate,
        read_rate=report.read_rate,
        look=look,
    )


def _owner(process: int) -> str:
    """A unique name for a process (boot id, pid, start time); empty when the kernel does not provide it."""
    try:
        status = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
        return f"{_BOOT.read_text().strip()} {process} {status.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


def _alive(owner: str) -> bool:
    process = re.fullmatch(r"\S+ ([0-9]{1,9}) \d+", owner)
    return process is not None and _owner(int(process[1])) == owner


def line(event: Event) -> bytes:
    """The event as one line of the file."""
    return json.dumps({"event": event.event, **asdict(event)}).encode() + b"\n"


def parse(data: bytes) -> list[Event]:
    """The events in ``data``. Invalid and incomplete lines are skipped; never raises."""
    events = []
    for text in data.split(b"\n"):
        if 0 < len(text) <= _LONGEST:
            try:
                events.append(_LINES.validate_json(text))
            except ValueError:
                continue
    return events


def runs_of(events: Sequence[Event], disk: Disk) -> list[Run]:
    """The runs on the card in ``disk``, or on cards of its size in its slot, in the order of their begin."""
    key, any_size = key_of(disk), has_own_serial(disk)
    runs: dict[str, Run] = {}
    for event in events:
        if event.key != key or not (any_size or event.size == disk.size):
            continue
        run = runs.get(event.run, Run())
        runs[event.run] = Run(event, run.ended) if isinstance(event, Begun) else Run(run.begun, event)
    return list(runs.values())


def shown(time: str) -> str:
    """The time of an event for display, in the time zone of this machine."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True)
class History:
    """The history of a cluster's cards in ``file``. New files and folders get the owner of ``home``."""

    file: Path
    home: Path

    def read(self) -> list[Event]:
        """All events, the oldest first; none without a file. Raises OSError."""
        try:
            handle = files.open_plain(self.file, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            return parse(_tail(handle, 2 * LARGEST))
        finally:
            os.close(handle)

    def add(self, event: Event) -> None:
        """Append an event to the file and sync it: either the whole line or nothing. Raises OSError."""
        files.make_private(self.file.parent, self.home)
        with self._locked() as handle:
            end = os.fstat(handle).st_size
            data = line(event)
            if end and os.pread(handle, 1, end - 1) != b"\n":
                data = b"\n" + data  # end the incomplete line before it
            if end + len(data) > LARGEST:
                self._renew(handle, data)
                return
            try:
                if os.write(handle, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle)
                if end == 0:
                    files.sync_folder(self.file.parent)
            except OSError:
                os.ftruncate(handle, end)
                raise

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, locked and open for appending. Opened again if another piimg replaced it meanwhile."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            handle = files.open_plain(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                _lock(handle, deadline)
                if os.path.samestat(os.fstat(handle), self.file.stat()):
                    files.hand_over(self.file, self.home)
                    yield handle
                    return
            finally:
                os.close(handle)

    def _renew(self, handle: int, data: bytes) -> None:
        """Replace the file by one with the newer half of the events, and ``data``.

        From the older half the last bad verdict of each card is kept.
        """
        content = _tail(handle, 2 * LARGEST)
        newer = content[-LARGEST // 2 :].partition(b"\n")[2]
        bad = _last_bad(parse(content[: len(content) - len(newer)]))
        files.write(self.file, bad + newer + data, 0o600)
        files.hand_over(self.file, self.home)


def _last_bad(events: Sequence[Event]) -> bytes:
    """The lines with the last bad verdict of each card, and with a good verdict after it, if any.

    Only the newest lines when there are too many.
    """
    last: dict[tuple[str, int], bytes] = {}
    for event in events:
        if isinstance(event, Ended) and event.verdict is Verdict.BAD:
            last.pop((event.key, event.size), None)
            last[event.key, event.size] = line(event)
        elif isinstance(event, Ended) and event.verdict is Verdict.GOOD and (event.key, event.size) in last:
            bad = last[event.key, event.size].splitlines(keepends=True)[0]
            last[event.key, event.size] = bad + line(event)
    kept = b""
    for lines in reversed(last.values()):
        if len(lines) + len(kept) > _BAD_KEPT:
            break
        kept = lines + kept
    return kept


def _tail(handle: int, count: int) -> bytes:
    """The last ``count`` bytes of an open file."""
    return os.pread(handle, count, max(0, os.fstat(handle).st_size - count))


def _lock(handle: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another program has it locked") from None
            time.sleep(0.05)
