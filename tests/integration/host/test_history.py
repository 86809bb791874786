"""The file of the history on a real host: other owners, other processes, locks, a full disk."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict
from imagebuilder.history.store import (
    LARGEST,
    History,
    line,
)
from imagebuilder.system.process import run
from tests.integration.card.running import TOP, environment
from tests.unit.history.making import SLOT, run_on


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
