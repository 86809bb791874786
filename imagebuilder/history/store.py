"""What happened to each card before: one file of JSON lines in the cluster's state folder.

Each line is an event: a run on a card began, or it ended with a verdict. It is a help to the memory and no
more: a run that began and did not end was cut off, and nothing is believed of what it left on the card.

An SD card in a built-in slot shows its own serial. Behind USB the serial is the reader's, the same for every
card put into it: there a history is of cards of one size in one slot of one reader, and says so.
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
LARGEST = 1 << 20  # bytes; what goes beyond makes the older half of the file go
_BAD_KEPT = LARGEST // 4  # bytes of that half which stay: what says that a card was bad
_LONGEST = 16 << 10  # bytes of one line
_TEXT = 500  # characters of one text in it
_PATIENCE = 5.0  # seconds to wait for another piimg that writes to the file

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _moment(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", text):
        raise ValueError("not a time in UTC")
    if not 1970 < datetime.fromisoformat(text).year < 9999:
        raise ValueError("not a time of ours")
    return text


Time = Annotated[str, AfterValidator(_moment)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Measure = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Look = Literal["", "verify", "reinserted"]
"""What found a card bad by reading alone: ``piimg verify``, or reading it after it was put in again."""


@dataclass(frozen=True)
class Begun(DiskRef):
    """A run on a card began. ``run`` ties it to its end, ``key`` says which card, ``size`` is in bytes.

    ``image`` is the node image's tree digest, or else the name of what it got; ``owner`` the process.
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
    """A run on a card ended: what became of it, as in its report; sizes in bytes, rates in bytes a second.

    ``look`` is empty where the card was written to.
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
    """One run on a card. One of the two may be missing: a run was cut off, or its begin is forgotten."""

    begun: Begun | None = None
    ended: Ended | None = None

    @property
    def latest(self) -> Event:
        """The last that is known of it."""
        event = self.ended or self.begun
        assert event is not None, "a run has at least one event"
        return event

    @property
    def under_way(self) -> bool:
        """Whether the process that began it is still at it."""
        return self.ended is None and self.begun is not None and _alive(self.begun.owner)


def key_of(disk: Disk) -> str:
    """What the history of the card in ``disk`` is kept under: its own serial if it has one, else the slot."""
    if disk.driver == "loop":
        return plain(f"file {disk.backing}")
    if has_own_serial(disk):
        return plain(f"sd {disk.model} {disk.serial}")
    return plain(f"{disk.driver} {disk.serial} {disk.slot}")


def has_own_serial(disk: Disk) -> bool:
    """Whether the card is known from all others, and not only the slot that it is in."""
    return disk.driver == "loop" or (disk.sd and bool(disk.serial))


def plain(text: str) -> str:
    """Text as it may stand in the file, and on a terminal: what it was made of may come from a device."""
    return printable(text, _TEXT, instead=" ")


def plain_reference(disk: Disk) -> DiskRef:
    """The names of ``disk``, each as it may stand in the file."""
    found = reference(disk)
    return replace(
        found,
        device=plain(found.device),
        slot=plain(found.slot),
        model=plain(found.model),
        serial=plain(found.serial),
    )


def now() -> str:
    """The time for an event."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begun(disk: Disk, run: str, node: str, image: str) -> Begun:
    """The event for a run of this process on ``disk`` that begins now."""
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
    """A name for a process that no other will ever have; empty when the kernel does not tell."""
    try:
        told = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
        return f"{_BOOT.read_text().strip()} {process} {told.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


def _alive(owner: str) -> bool:
    process = re.fullmatch(r"\S+ ([0-9]{1,9}) \d+", owner)
    return process is not None and _owner(int(process[1])) == owner


def line(event: Event) -> bytes:
    """The event as one line of the file."""
    return json.dumps({"event": event.event, **asdict(event)}).encode() + b"\n"


def parse(data: bytes) -> list[Event]:
    """The events in ``data``. A line that is none, or is torn, is passed over; never raises."""
    found = []
    for one in data.split(b"\n"):
        if 0 < len(one) <= _LONGEST:
            try:
                found.append(_LINES.validate_json(one))
            except ValueError:
                continue
    return found


def runs_of(events: Sequence[Event], disk: Disk) -> list[Run]:
    """The runs on the card in ``disk``, or on cards of its size in its slot, in the order they began."""
    key, any_size = key_of(disk), has_own_serial(disk)
    runs: dict[str, Run] = {}
    for event in events:
        if event.key != key or not (any_size or event.size == disk.size):
            continue
        run = runs.get(event.run, Run())
        runs[event.run] = Run(event, run.ended) if isinstance(event, Begun) else Run(run.begun, event)
    return list(runs.values())


def shown(moment: str) -> str:
    """A time of an event for people, in the time zone of this machine."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True)
class History:
    """The history of a cluster's cards in ``file``. What is made for it belongs to the owner of ``home``."""

    file: Path
    home: Path

    def read(self) -> list[Event]:
        """All events, the oldest first; none when there is no file. Raises OSError."""
        try:
            handle = files.open_plain(self.file, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            return parse(_tail(handle, 2 * LARGEST))
        finally:
            os.close(handle)

    def add(self, event: Event) -> None:
        """Write an event to the end of the file and to the disk, all of it or nothing. Raises OSError."""
        files.make_private(self.file.parent, self.home)
        with self._locked() as handle:
            end = os.fstat(handle).st_size
            data = line(event)
            if end and os.pread(handle, 1, end - 1) != b"\n":
                data = b"\n" + data  # the line before was torn: it ends here
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
        """The file, open for writing at its end and locked. Another piimg may put a new one in its place."""
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
        """Put a file in place that has only the newer half of the events, and ``data``.

        Of the older half there stays when each card was bad last: that must not be forgotten.
        """
        whole = _tail(handle, 2 * LARGEST)
        newer = whole[-LARGEST // 2 :].partition(b"\n")[2]
        bad = _last_bad(parse(whole[: len(whole) - len(newer)]))
        files.write(self.file, bad + newer + data, 0o600)
        files.hand_over(self.file, self.home)


def _last_bad(events: Sequence[Event]) -> bytes:
    """The lines that say when each card was bad last, and that one was good after it.

    The newest of them where there are too many.
    """
    last: dict[tuple[str, int], bytes] = {}
    for one in events:
        if isinstance(one, Ended) and one.verdict is Verdict.BAD:
            last.pop((one.key, one.size), None)
            last[one.key, one.size] = line(one)
        elif isinstance(one, Ended) and one.verdict is Verdict.GOOD and (one.key, one.size) in last:
            bad = last[one.key, one.size].splitlines(keepends=True)[0]
            last[one.key, one.size] = bad + line(one)
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
                raise TimeoutError(errno.ETIMEDOUT, "another program keeps it locked") from None
            time.sleep(0.05)
