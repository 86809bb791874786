"""What is no image file is refused, and never waited for."""

import os
import threading
from pathlib import Path

import pytest

from imagebuilder.card.source import open_source
from imagebuilder.errors import UsageError


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe, refused = tmp_path / "node.img", list[str]()
    os.mkfifo(pipe)

    def attempt() -> None:
        with pytest.raises(UsageError) as caught:
            open_source(pipe)
        refused.append(caught.value.message)

    waiting = threading.Thread(target=attempt, daemon=True)
    waiting.start()
    waiting.join(5)
    assert refused == [f"{pipe}: it is a pipe, not a regular file"]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        open_source(tmp_path)
