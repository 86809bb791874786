"""The file of the completed nodes of a station."""

import stat
from pathlib import Path

import pytest

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.errors import PiimgError
from imagebuilder.station.completed import CompletedNodes, completed_node

CARD = Disk(Path("/dev/sdx"), "8:16", 32 * 10**9, "usb", "usb 1-1", serial="12\x1b3", removable=True)
REPORT = CardReport("/dev/sdx", "usb 1-1", "", "", CARD.size, "worker1", "worker1.img", Verdict.GOOD)
NODE = completed_node(CARD, REPORT, "c0ffee")


def completed(folder: Path) -> CompletedNodes:
    return CompletedNodes(folder / "state", folder)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    nodes = completed(tmp_path)
    assert nodes.read() == {}
    nodes.write({"worker1": NODE})
    assert nodes.read() == {"worker1": NODE}
    assert stat.S_IMODE(nodes.file.stat().st_mode) == 0o600
    assert NODE.serial.isprintable()


def test_nodes_that_are_written_anew_are_not_kept(tmp_path: Path) -> None:
    nodes = completed(tmp_path)
    nodes.write({"worker1": NODE, "worker2": NODE})
    assert nodes.kept(["worker1"]) == {"worker2": NODE}
    assert nodes.kept([]) == {"worker1": NODE, "worker2": NODE}


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[" * 100_000, b'{"format": 2, "nodes": {}}', b'{"format": 1, "nodes": {"a": {}}}'],
)
def test_a_file_of_somebody_else_is_refused(tmp_path: Path, content: bytes) -> None:
    nodes = completed(tmp_path)
    nodes.write({})
    nodes.file.write_bytes(content)
    for action in (nodes.read, lambda: nodes.kept([])):
        with pytest.raises(PiimgError, match="cannot be used") as caught:
            action()
        assert "--again" in caught.value.hint
    assert nodes.kept(["worker1"]) == {}


def test_a_second_station_is_kept_away(tmp_path: Path) -> None:
    nodes, second = completed(tmp_path), pytest.raises(PiimgError, match="another station of one is running")
    with nodes.locked("one"), second, nodes.locked("one"):
        pass
    with nodes.locked("one"):
        pass
