"""The lines of the history: what is written is read, what is torn or hostile is passed over."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.card.report import Verdict
from imagebuilder.history.store import (
    Begun,
    Ended,
    Event,
    begun,
    key_of,
    line,
    parse,
    plain,
    runs_of,
    shown,
)
from imagebuilder.history.warnings import past
from tests.unit.history.making import READER, SLOT, WHEN, run_on


@given(st.integers(0, 2000))
def test_a_file_cut_anywhere_keeps_all_before_and_takes_more(cut: int) -> None:
    events = [*run_on(SLOT, "1", Verdict.BAD, 7), *run_on(READER, "2", Verdict.GOOD)]
    whole = b"".join(line(event) for event in events)
    torn = whole[:cut]
    assert parse(torn) == events[: len(parse(torn))]
    assert len(parse(torn)) >= torn.count(b"\n")


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


def test_hostile_names_of_a_device_do_not_get_out() -> None:
    hostile = replace(READER, serial="\x1b[2J\udcff\n", model="m" * 9000, slot="s\r")
    start = begun(hostile, "1", "worker1", "\x1b]0;x\a")
    (found,) = parse(line(start))
    assert found == start
    assert line(start).count(b"\n") == 1
    assert all(text.isprintable() for text in (start.serial, start.model, start.key, start.image, start.slot))
