"""What is held on the host, and what stays known of it when it cannot be let go."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.system import journal, loop
from imagebuilder.system.cleanup import cleanup


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file to attach; what is attached to it cannot be detached for now, and is given up at once."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 20))
    monkeypatch.setattr(loop, "_DETACH_PATIENCE", 0.0)
    yield file
    assert not loop.devices_of(backing(file))


def backing(file: Path) -> loop.Backing:
    info = file.stat()
    return loop.Backing(info.st_dev, info.st_ino, 0)


@pytest.mark.parametrize("error", [None, PiimgError("the first", "a hint"), ValueError("the first")])
def test_what_could_not_be_freed_is_known_to_cleanup(error: Exception | None, busy: Path) -> None:
    """Whatever went wrong before, and it stays the error that is raised."""
    opened: list[int] = []
    with pytest.raises(Exception) as raised, loop.attached(busy) as device:
        opened.append(os.open(device, os.O_RDONLY))  # a device that is open is detached later
        if error is not None:
            raise error
    assert raised.value is error or "could not be detached" in str(raised.value)
    notes = [
        note for note in journal.folder().glob("loop-*.json") if str(busy.stat().st_ino) in note.read_text()
    ]
    assert len(notes) == 1
    os.close(opened[0])
    cleanup()
    assert not notes[0].exists()
