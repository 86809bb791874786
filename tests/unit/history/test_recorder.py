"""The recorder passes the progress of all cards on: a slow disk below the history must not stop it."""

import threading
from pathlib import Path

import pytest

from imagebuilder.card.progress import WRITE
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.source import ImageSource
from imagebuilder.device.discovery import Disk
from imagebuilder.events import Silent, Started
from imagebuilder.history import block_maps
from imagebuilder.history.recorder import PlannedRun, Recorder
from imagebuilder.history.store import FILE, History
from imagebuilder.image.bmap import BlockMap


def test_a_map_that_takes_long_to_keep_stops_no_other_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageSource(tmp_path / "node.img", BlockMap(4096, 4096, "sha256", ()), ())
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
