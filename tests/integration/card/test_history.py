"""The history of the cards: what is written survives, what is torn is passed over, what is said is true."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk, disk_from
from imagebuilder.events import Advanced, Finished, Message, Started
from imagebuilder.events import Event as Told
from imagebuilder.history.recorder import PlannedRun, Recorder
from imagebuilder.history.store import (
    LARGEST,
    Begun,
    Ended,
    Event,
    History,
    Run,
    begun,
    ended,
    key_of,
    line,
    parse,
    plain,
    runs_of,
    shown,
)
from imagebuilder.history.warnings import Past, loses_writes, past, was_good_with
from imagebuilder.system.process import run
from tests.integration.card.running import TOP, environment
from tests.support.checkout import DEVICES

WHEN = "2025-11-24T13:03:00+00:00"


def recorded(name: str) -> Disk:
    record = json.loads((DEVICES / f"{name}.json").read_text())
    return disk_from(record["properties"], record["attributes"])


READER, SLOT = recorded("usb-reader"), recorded("laptop-slot")


def report_of(disk: Disk, verdict: Verdict, error: str = "", offset: int | None = None) -> CardReport:
    named = (str(disk.node), disk.slot, disk.model, disk.serial)
    found = CardReport(*named, disk.size, "worker1", "worker1.img", verdict, error=error, offset=offset)
    return replace(found, problem=error)


def run_on(disk: Disk, name: str, verdict: Verdict | None, offset: int | None = None) -> list[Event]:
    """The events of one run; without a verdict it was cut off."""
    start = replace(begun(disk, name, "worker1", "0" * 64), time=WHEN, owner="")
    if verdict is None:
        return [start]
    return [start, replace(ended(start, report_of(disk, verdict, "it does not", offset)), time=WHEN)]


def told(disk: Disk, *verdicts: Verdict | None, now: Disk | None = None) -> tuple[str, ...]:
    events = [one for n, verdict in enumerate(verdicts) for one in run_on(disk, str(n), verdict, 4096)]
    return past(runs_of(events, now or disk), now or disk).warnings


def test_what_is_said_of_a_card_with_a_serial_of_its_own() -> None:
    when = shown(WHEN)
    assert SLOT.sd
    assert told(SLOT) == told(SLOT, Verdict.GOOD) == told(SLOT, Verdict.UNVERIFIED) == ()
    assert told(SLOT, Verdict.FAILED, Verdict.FAILED, Verdict.GOOD) == (
        f"this card failed on {when} at byte 4096 (2 times in all); good since",
    )
    assert told(SLOT, Verdict.FAILED, *[Verdict.GOOD] * 9)[0].endswith("good since, 9 times")
    assert told(SLOT, Verdict.GOOD, None) == (f"a run on this card was interrupted on {when}",)
    assert told(SLOT, Verdict.INTERRUPTED) == (f"a run on this card was interrupted on {when}",)
    assert told(SLOT, Verdict.INTERRUPTED, Verdict.GOOD) == told(SLOT, None, Verdict.GOOD) == ()
    other = replace(SLOT, serial="0x00000001")
    assert told(SLOT, Verdict.BAD, now=other) == ()
    assert told(SLOT, Verdict.BAD, now=replace(SLOT, slot="mmc7", node=Path("/dev/mmcblk7"))) != ()


def test_behind_a_reader_it_is_not_claimed_to_be_the_same_card() -> None:
    said = told(READER, Verdict.BAD)
    where = "of this size in this slot of the reader"
    assert said == (f"the last card read back {where} was bad on {shown(WHEN)} at byte 4096",)
    assert told(READER, Verdict.BAD, *[Verdict.GOOD] * 4) == (
        f"a card {where} was bad on {shown(WHEN)} at byte 4096; 4 good runs there since",
    )
    assert told(READER, Verdict.BAD, *[Verdict.GOOD] * 5) == ()
    assert told(READER, Verdict.BAD, now=replace(READER, size=READER.size * 2)) == ()
    assert told(READER, Verdict.BAD, now=replace(READER, slot="usb 2-4")) == ()
    assert told(READER, Verdict.BAD, now=replace(READER, serial="other")) == ()
    assert told(READER, Verdict.BAD, now=replace(READER, node=Path("/dev/sdx"), diskseq=99)) == said


def of(disk: Disk, *verdicts: Verdict | None) -> Past:
    events = [one for n, verdict in enumerate(verdicts) for one in run_on(disk, str(n), verdict, 4096)]
    return past(runs_of(events, disk), disk)


def test_a_card_that_was_bad_once_stays_so() -> None:
    once = of(SLOT, Verdict.BAD)
    assert (once.bad, once.same) == (f"this card was bad on {shown(WHEN)} at byte 4096", True)
    for later in ([Verdict.GOOD], [Verdict.GOOD] * 9, [Verdict.UNVERIFIED, None], [Verdict.FAILED]):
        assert of(SLOT, Verdict.BAD, *later).bad == once.bad
        assert not any("good" in text for text in of(SLOT, Verdict.BAD, *later).warnings)
    assert of(SLOT, Verdict.BAD, Verdict.GOOD, Verdict.BAD).bad == f"{once.bad} (2 times in all)"
    assert of(SLOT, Verdict.FAILED, Verdict.GOOD, None).bad == ""


def test_in_the_slot_of_a_reader_only_the_last_that_was_read_back_counts() -> None:
    assert not of(READER, Verdict.BAD).same
    assert of(READER, Verdict.GOOD, Verdict.BAD).bad != ""
    for nothing_learned in (None, Verdict.INTERRUPTED, Verdict.FAILED, Verdict.UNVERIFIED):
        assert of(READER, Verdict.BAD, nothing_learned).bad != ""
    assert of(READER, Verdict.BAD, Verdict.GOOD).bad == ""


def test_a_card_is_known_to_have_been_good_with_a_node_image() -> None:
    built = datetime.fromisoformat(WHEN).timestamp() - 1

    def good(
        *verdicts: Verdict | None, node: str = "worker1", image: str = "0" * 64, at: float = built
    ) -> bool:
        events = [one for n, verdict in enumerate(verdicts) for one in run_on(SLOT, str(n), verdict, 4096)]
        return was_good_with(runs_of(events, SLOT), node, image, at)

    assert good(Verdict.GOOD) and good(Verdict.BAD, Verdict.GOOD) and good(Verdict.GOOD, None)
    assert not good() and not good(Verdict.BAD) and not good(Verdict.GOOD, Verdict.BAD)
    assert not good(Verdict.GOOD, node="worker2") and not good(Verdict.GOOD, image="1" * 64)
    assert not good(Verdict.GOOD, at=built + 1)  # built anew since: the bytes are others


def test_without_an_offset_the_error_is_told() -> None:
    _, end = run_on(SLOT, "1", Verdict.FAILED)
    assert isinstance(end, Ended)
    assert past([Run(None, replace(end, offset=None))], SLOT).failure.endswith(": it does not")


def test_a_run_that_is_under_way_is_not_called_interrupted() -> None:
    mine = begun(SLOT, "1", "worker1", "")
    assert mine.owner.split()[1] == str(os.getpid())
    assert past([Run(mine)], SLOT).warnings == (
        f"a run on this card has been running since {shown(mine.time)}",
    )
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    for owner in (mine.owner + "0", mine.owner.replace(str(os.getpid()), str(child.pid)), "", "x", "a b c"):
        assert past([Run(replace(mine, owner=owner))], SLOT).interruption


def test_it_is_kept_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    history = History(tmp_path / "state" / "picluster" / "cards.jsonl", tmp_path)
    assert history.read() == []
    events = [*run_on(SLOT, "1", Verdict.BAD, 7), *run_on(READER, "2", None)]
    for event in events:
        history.add(event)
    assert history.read() == events
    assert stat.S_IMODE(history.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.file.parent.stat().st_mode) == 0o700
    assert len(history.file.read_bytes().splitlines()) == 3


def test_what_root_makes_in_a_users_folder_stays_theirs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    home = tmp_path / "cluster"
    home.mkdir()
    os.chown(home, 4711, 4712)
    history = History(home / "state" / "picluster" / "cards.jsonl", home)
    history.add(run_on(SLOT, "1", None)[0])
    for path in (history.file, history.file.parent, history.file.parent.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


@given(st.integers(0, 2000))
def test_a_file_cut_anywhere_keeps_all_before_and_takes_more(cut: int) -> None:
    events = [*run_on(SLOT, "1", Verdict.BAD, 7), *run_on(READER, "2", Verdict.GOOD)]
    whole = b"".join(line(one) for one in events)
    torn = whole[:cut]
    assert parse(torn) == events[: len(parse(torn))]
    assert len(parse(torn)) >= torn.count(b"\n")


def test_after_a_torn_line_the_next_is_whole(tmp_path: Path) -> None:
    history = History(tmp_path / "cards.jsonl", tmp_path)
    first, second = run_on(SLOT, "1", Verdict.GOOD)
    history.add(first)
    with history.file.open("ab") as stream:
        stream.write(line(second)[:-20])
    history.add(second)
    assert history.read() == [first, second]


def test_it_does_not_grow_for_ever(tmp_path: Path) -> None:
    history = History(tmp_path / "cards.jsonl", tmp_path)
    old = [one for n in range(400) for one in run_on(SLOT, f"old{n}", Verdict.BAD, n)]
    bulk = b"".join(line(one) for one in old)
    history.file.write_bytes(bulk * (LARGEST // len(bulk) + 1))
    new = run_on(SLOT, "new", Verdict.GOOD)
    for event in new:
        history.add(event)
    assert LARGEST // 3 < history.file.stat().st_size <= LARGEST
    assert history.read()[-2:] == new
    assert history.read()[-3] == old[-1]
    assert all(isinstance(one, Begun | Ended) for one in history.read())
    assert stat.S_IMODE(history.file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["cards.jsonl"]


def test_what_was_bad_is_not_forgotten_with_the_old_half(tmp_path: Path) -> None:
    history = History(tmp_path / "cards.jsonl", tmp_path)
    bad, fixed = run_on(SLOT, "bad", Verdict.BAD, 7), run_on(READER, "reader", Verdict.BAD, 7)
    since = run_on(READER, "since", Verdict.GOOD)
    for event in (*bad, *fixed, *since):
        history.add(event)
    other = replace(SLOT, serial="0x00000001")
    filler = b"".join(line(one) for one in run_on(other, "other", Verdict.GOOD))
    for _ in range(3):  # the old half goes each time
        with history.file.open("ab") as stream:
            stream.write(filler * ((LARGEST - history.file.stat().st_size) // len(filler)))
        while history.file.stat().st_size > LARGEST * 9 // 10:
            history.add(run_on(other, "other", None)[0])
    events = history.read()
    assert [one for one in events if one.run == "bad"] == bad[1:]
    assert past(runs_of(events, SLOT), SLOT).bad != ""
    assert past(runs_of(events, READER), READER).bad == ""
    assert past(runs_of(events, other), other).bad == ""


def test_too_many_bad_cards_do_not_fill_the_file(tmp_path: Path) -> None:
    history = History(tmp_path / "cards.jsonl", tmp_path)
    lines = [line(run_on(replace(SLOT, serial=f"{n:#010x}"), "1", Verdict.BAD, n)[1]) for n in range(4000)]
    history.file.write_bytes(b"".join(lines))
    assert history.file.stat().st_size > LARGEST
    history.add(run_on(SLOT, "1", None)[0])
    assert LARGEST // 2 < history.file.stat().st_size < LARGEST * 4 // 5


WRITER = """
import sys
from pathlib import Path
from imagebuilder.history import store
kept = store.History(Path(sys.argv[1]), Path(sys.argv[1]).parent)
for n in range(40):
    disk, when = ("", "", "", "", 1), "2025-11-24T13:03:00+00:00"
    kept.add(store.Begun(*disk, f"{sys.argv[2]}-{n}", when, "key", "worker1"))
"""


def test_several_at_once_lose_nothing_even_while_the_old_goes(tmp_path: Path) -> None:
    file = tmp_path / "cards.jsonl"
    filler = line(run_on(SLOT, "filler", None)[0])
    file.write_bytes(filler * ((LARGEST - 3000) // len(filler)))  # the old half goes while they write
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, file, str(n)], cwd=TOP, env=environment())
        for n in range(4)
    ]
    assert [one.wait(60) for one in writers] == [0] * 4
    names = [one.run for one in History(file, tmp_path).read() if one.run != "filler"]
    assert sorted(names) == sorted(f"{writer}-{n}" for writer in range(4) for n in range(40))
    assert file.stat().st_size < LARGEST * 3 // 4


def test_who_waited_while_the_file_was_renewed_writes_to_the_new_one(tmp_path: Path) -> None:
    history = History(tmp_path / "cards.jsonl", tmp_path)
    old, new = run_on(SLOT, "1", None)[0], run_on(SLOT, "2", None)[0]
    history.add(old)
    with history.file.open("rb") as stream, ThreadPoolExecutor() as pool:
        fcntl.flock(stream, fcntl.LOCK_EX)
        waiting = pool.submit(history.add, new)
        time.sleep(0.3)  # it has the old file open, and waits for its lock
        assert not waiting.done()
        renewed = tmp_path / "renewed"
        renewed.write_bytes(line(old))
        renewed.replace(history.file)
        fcntl.flock(stream, fcntl.LOCK_UN)
        waiting.result(10)
    assert history.read() == [old, new]


def test_a_lock_that_is_never_let_go_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    history = History(tmp_path / "cards.jsonl", tmp_path)
    history.file.touch()
    with history.file.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        begun_at = time.monotonic()
        with pytest.raises(TimeoutError):
            history.add(run_on(SLOT, "1", None)[0])
        assert time.monotonic() - begun_at < 10


@contextmanager
def full_disk(point: Path) -> Iterator[Path]:
    """A file system without a byte left."""
    point.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", point])
    try:
        yield point
    finally:
        run(["umount", point])


def test_on_a_full_disk_what_was_there_stays_as_it_was(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    with full_disk(tmp_path / "full") as folder:
        history = History(folder / "cards.jsonl", folder)
        events = run_on(SLOT, "1", Verdict.GOOD)
        for event in events:
            history.add(event)
        before = history.file.read_bytes()
        with (folder / "filler").open("wb", buffering=0) as stream:
            try:
                while stream.write(bytes(4096)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
        with pytest.raises(OSError) as raised:
            for n in range(20):  # the last page of the file still has room
                history.add(run_on(SLOT, f"more{n}", None)[0])
        assert raised.value.errno == errno.ENOSPC
        after = history.file.read_bytes()
        assert after.startswith(before)
        assert after.endswith(b"\n")
        (folder / "filler").unlink()
        history.add(events[0])
        assert history.read()[-1] == events[0]


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "device"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "cards.jsonl"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        (tmp_path / "elsewhere").touch()
        file.symlink_to("/dev/full" if kind == "device" else tmp_path / "elsewhere")
    history = History(file, tmp_path)
    for action in (history.read, lambda: history.add(run_on(SLOT, "1", None)[0])):
        with pytest.raises(OSError):
            action()
    if kind == "link":
        assert (tmp_path / "elsewhere").read_bytes() == b""


TEXTS = st.text(max_size=60)
PLAIN = TEXTS.map(plain)
MOMENTS = st.datetimes(datetime(1971, 1, 2), datetime(9998, 12, 30)).map(
    lambda one: one.replace(tzinfo=UTC).isoformat(timespec="seconds")
)
COUNTS = st.integers(0, 2**63 - 1)
FLOATS = st.floats(0, allow_nan=False, allow_infinity=False)


@given(
    st.builds(Begun, run=PLAIN, time=MOMENTS, key=PLAIN, size=COUNTS, node=PLAIN, image=PLAIN, owner=PLAIN)
    | st.builds(
        Ended,
        run=st.just("1"),
        time=MOMENTS,
        key=st.just("key"),
        size=COUNTS,
        node=st.just("worker1"),
        verdict=st.sampled_from(Verdict),
        error=PLAIN,
        offset=st.none() | COUNTS,
        seconds=FLOATS,
        written=COUNTS,
        write_rate=FLOATS,
    )
)
def test_what_is_written_is_read(event: Event) -> None:
    assert parse(line(event)) == [event]
    assert shown(event.time).startswith(event.time[:3])


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(WHEN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["event", "run", "time", "key", "size", "node", "verdict", "error", "offset", "seconds", "owner"]
LINES = st.fixed_dictionaries(
    {}, optional={name: JUNK | st.sampled_from(["begun", "ended", "bad", WHEN, "k"]) for name in FIELDS}
)


@given(st.lists(st.binary(max_size=80) | LINES.map(lambda one: json.dumps(one).encode()), max_size=8))
def test_nothing_in_the_file_makes_it_fail(lines: list[bytes]) -> None:
    events = parse(b"\n".join(lines))
    for event in events:
        assert event.time.endswith("+00:00")
        assert len(shown(event.time)) == 16
    for key in {event.key for event in events}:
        disk = replace(READER, driver="loop", backing=key)
        named = [replace(event, key=key_of(disk)) for event in events]
        assert all(text.isprintable() for text in past(runs_of(named, disk), disk).warnings)


@given(st.sampled_from(["begun", "ended"]), st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=3))
def test_a_line_that_is_almost_right_is_read_or_passed_over(event: str, wrong: dict[str, object]) -> None:
    right = {"run": "1", "time": WHEN, "key": "k", "size": 1, "node": "n", "verdict": "bad"}
    right |= dict.fromkeys(("device", "slot", "model", "serial"), "")
    document = {**right, "event": event, **wrong}
    found = parse(json.dumps(document).encode())
    assert len(found) <= 1
    if not wrong:
        assert len(found) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 3000, "\0" * 50, "9" * 12_000, '"\\ud800"'])
def test_deep_and_long_lines_are_passed_over(text: str) -> None:
    good = run_on(SLOT, "1", None)[0]
    assert parse(text.encode() + b"\n" + line(good)) == [good]


class Heard:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[Told] = []

    def emit(self, event: Told) -> None:
        self.events.append(event)


def test_a_run_begins_with_the_first_task_and_ends_with_its_report(tmp_path: Path) -> None:
    history, heard = History(tmp_path / "cards.jsonl", tmp_path), Heard()
    device = str(SLOT.node)
    recorder = Recorder(heard, history, {device: PlannedRun(SLOT, "worker1", "d" * 64)})
    events: list[Told] = [
        Started("probe", device, 1),
        Advanced("probe", device, 1, 1),
        Finished("probe", device),
        Started("write", device, 1),
        Started("write", "/dev/other", 1),
    ]
    for event in events:
        recorder.emit(event)
    assert heard.events == events
    (start,) = history.read()
    assert isinstance(start, Begun)
    assert (start.node, start.image, start.serial, start.size) == (
        "worker1",
        "d" * 64,
        SLOT.serial,
        SLOT.size,
    )
    recorder.ended(report_of(SLOT, Verdict.BAD, "does not hold it", 77))
    _, end = history.read()
    assert isinstance(end, Ended)
    assert (end.run, end.verdict, end.error, end.offset) == (start.run, "bad", "does not hold it", 77)


def test_a_card_that_was_never_touched_leaves_no_trace(tmp_path: Path) -> None:
    history = History(tmp_path / "cards.jsonl", tmp_path)
    recorder = Recorder(Heard(), history, {str(SLOT.node): PlannedRun(SLOT, "worker1", "")})
    recorder.ended(report_of(SLOT, Verdict.FAILED, "is in use"))
    assert history.read() == []
    assert not history.file.exists()


def test_what_cannot_be_kept_is_told_once_and_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    heard, device = Heard(), str(SLOT.node)
    history = History(tmp_path / "state" / "cards.jsonl", tmp_path)
    recorder = Recorder(heard, history, {device: PlannedRun(SLOT, "worker1", "")})
    recorder.emit(Started("write", device, 1))
    recorder.ended(report_of(SLOT, Verdict.GOOD))
    messages = [one for one in heard.events if isinstance(one, Message)]
    assert [one.level for one in messages] == ["warning"]
    assert "cannot save the history" in messages[0].text


def test_only_a_bad_card_that_was_read_leaves_a_trace(tmp_path: Path) -> None:
    history = History(tmp_path / "cards.jsonl", tmp_path)
    plan, recorder = PlannedRun(READER, "worker1", "d" * 64), Recorder(Heard(), history, {})
    for verdict in (Verdict.GOOD, Verdict.FAILED, Verdict.INTERRUPTED):
        recorder.was_read(plan, report_of(READER, verdict), "verify")
    assert history.read() == []
    recorder.was_read(plan, report_of(READER, Verdict.BAD, "wrong", 7), "verify")
    assert past(runs_of(history.read(), READER), READER).bad.endswith("at byte 7")
    assert not loses_writes(history.read(), READER)
    recorder.was_read(plan, report_of(READER, Verdict.BAD, "wrong", 7), "reinserted")
    assert loses_writes(history.read(), READER)
    assert loses_writes(history.read(), replace(READER, size=1))  # it is the reader that is known for it
    assert not loses_writes(history.read(), SLOT)


def test_hostile_names_of_a_device_do_not_get_out() -> None:
    hostile = replace(READER, serial="\x1b[2J\udcff\n", model="m" * 9000, slot="s\r")
    start = begun(hostile, "1", "worker1", "\x1b]0;x\a")
    (found,) = parse(line(start))
    assert found == start
    assert line(start).count(b"\n") == 1
    assert all(text.isprintable() for text in (start.serial, start.model, start.key, start.image, start.slot))
