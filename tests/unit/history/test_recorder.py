"""The recorder passes the progress of all cards on: a slow disk below the history must not stop it."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.progress import WRITE
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Advanced, Finished, Message, Silent, Started
from imagebuilder.events import Event as Reported
from imagebuilder.history import block_maps
from imagebuilder.history.recorder import PlannedRun, Recorder
from imagebuilder.history.store import (
    FILE,
    Begun,
    Ended,
    History,
    runs_of,
)
from imagebuilder.history.warnings import loses_writes, past
from imagebuilder.image.bmap import BlockMap
from imagebuilder.image.content import ImageContent
from tests.unit.history.making import READER, SLOT, report_of


def test_a_map_that_takes_long_to_keep_stops_no_other_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ImageContent(tmp_path / "node.img", 4096)
    source = ImageSource("worker1", content, BlockMap(4096, 4096, "sha256", ()), ())
    disks = [Disk(Path(f"/dev/sd{name}"), f"8:{name}", 1 << 30, "usb", f"usb {name}") for name in "12"]
    plans = {str(disk.node): PlannedRun(disk, "worker1", "0" * 64, source) for disk in disks}
    recorder = Recorder(Silent(), History(tmp_path / FILE, tmp_path), plans)
    keeping, go_on = threading.Event(), threading.Event()

    def keep(self: object, node: str, source: ImageSource) -> None:
        keeping.set()
        assert go_on.wait(20)

    monkeypatch.setattr(block_maps.BlockMapStore, "keep", keep)
    first, second = disks
    recorder.emit(Started(WRITE, str(first.node)))
    report = CardReport(
        device=str(first.node),
        slot="",
        model="",
        serial="",
        size=0,
        node="worker1",
        image="",
        verdict=Verdict.GOOD,
    )
    slow = threading.Thread(target=recorder.ended, args=(report,))
    other = threading.Thread(target=recorder.emit, args=(Started(WRITE, str(second.node)),))
    slow.start()
    try:
        assert keeping.wait(10)
        other.start()
        other.join(5)
        assert not other.is_alive()
    finally:
        go_on.set()
        slow.join(10)


class Heard:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[Reported] = []

    def emit(self, event: Reported) -> None:
        self.events.append(event)


def test_a_run_begins_with_the_first_task_and_ends_with_its_report(tmp_path: Path) -> None:
    history, heard = History(tmp_path / "cards.jsonl", tmp_path), Heard()
    device = str(SLOT.node)
    recorder = Recorder(heard, history, {device: PlannedRun(SLOT, "worker1", "d" * 64)})
    events: list[Reported] = [
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


def test_what_cannot_be_kept_is_reported_once_and_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    heard, device = Heard(), str(SLOT.node)
    history = History(tmp_path / "state" / "cards.jsonl", tmp_path)
    recorder = Recorder(heard, history, {device: PlannedRun(SLOT, "worker1", "")})
    recorder.emit(Started("write", device, 1))
    recorder.ended(report_of(SLOT, Verdict.GOOD))
    messages = [event for event in heard.events if isinstance(event, Message)]
    assert [message.level for message in messages] == ["warning"]
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
