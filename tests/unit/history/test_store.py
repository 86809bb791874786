"""The file of the history: it keeps what was written, within its bounds."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict
from imagebuilder.history.store import (
    LARGEST,
    Begun,
    Ended,
    History,
    line,
    runs_of,
)
from imagebuilder.history.warnings import past
from tests.unit.history.making import READER, SLOT, run_on


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
