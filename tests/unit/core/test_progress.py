"""The progress of one task: it always ends, not every step is an event, and rate and time left are right."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import imagebuilder
from imagebuilder.errors import PiimgError
from imagebuilder.events import Advanced, Event, Finished, Started
from imagebuilder.progress import Task, task

MB = 1_000_000


@dataclass
class Record:
    """A Reporter that remembers."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def advanced(self) -> list[Advanced]:
        return [event for event in self.events if isinstance(event, Advanced)]


@pytest.fixture
def record() -> Record:
    return Record()


def test_a_task_that_succeeds(record: Record) -> None:
    with task(record, "copy", "worker1"):
        pass
    assert record.events == [Started("copy", "worker1", None), Finished("copy", "worker1", True)]


@pytest.mark.parametrize("error", [PiimgError("no"), OSError(5, "bad"), KeyboardInterrupt(), SystemExit(1)])
def test_a_task_ends_whatever_is_raised(record: Record, error: BaseException) -> None:
    with pytest.raises(type(error)), task(record, "map", "worker1", 10) as mapping:
        mapping.advance(5)
        raise error
    assert record.events[-1] == Finished("map", "worker1", False)


def test_a_task_can_fail_without_an_exception(record: Record) -> None:
    with task(record, "checks", "worker1") as checking:
        checking.ok = False
    assert record.events[-1] == Finished("checks", "worker1", False)


def test_tasks_in_each_other_end_in_order(record: Record) -> None:
    with pytest.raises(KeyboardInterrupt), task(record, "build", "n"), task(record, "inject", "n"):
        raise KeyboardInterrupt
    assert record.events[2:] == [Finished("inject", "n", False), Finished("build", "n", False)]


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def steady(
    record: Record, total: int | None, rate: float, steps: int, size: int
) -> Iterator[tuple[Task, float]]:
    """A task that advances at a constant rate; the task and the seconds since its start, after each step."""
    clock = Clock()
    with task(record, "write", "card", total, clock=clock) as one:
        for step in range(1, steps + 1):
            clock.now = 1000 + step * size / rate
            one.advance(size)
            yield one, clock.now - 1000


def test_small_steps_are_not_all_events(record: Record) -> None:
    """A download of 400 MB in pieces of 16 KiB at 10 MB/s: 24414 pieces, 40 s."""
    size = 16 << 10
    for _ in steady(record, 400 * MB, 10 * MB, 400 * MB // size, size):
        pass
    assert 150 <= len(record.advanced) <= 400
    assert record.advanced[0].done == size  # the first says at once that something happens


def test_without_a_total_time_alone_decides(record: Record) -> None:
    for _ in steady(record, None, 10 * MB, 1000, 16 << 10):  # 1.6 s
        pass
    assert 5 <= len(record.advanced) <= 10
    assert record.advanced[-1].done == 1000 * (16 << 10)  # and how far it came is said in any case
    assert {event.left for event in record.advanced} == {None}


def test_rate_and_time_left_of_a_steady_task(record: Record) -> None:
    total, rate = 600 * MB, 13.4e6
    for one, seconds in steady(record, total, rate, 600, MB):
        last = record.advanced[-1]
        if seconds > 0.1 and last.done == one.done < total:
            assert last.rate == pytest.approx(rate)
            assert last.left == pytest.approx((total - one.done) / rate)
    assert record.advanced[-1].done == total
    assert record.advanced[-1].left is None  # what the subject does next is not known here


def test_a_rate_is_not_made_of_the_first_moment(record: Record) -> None:
    for _ in steady(record, 100, 1000, 10, 10):  # 0.1 s in all
        pass
    assert [event.rate for event in record.advanced[:-1]] == [None] * 9
    assert record.advanced[-1].rate == pytest.approx(1000)


def test_the_rate_follows_within_seconds(record: Record) -> None:
    clock = Clock()
    with task(record, "write", "card", 1000 * MB, clock=clock) as one:
        for rate in (50 * MB, 5 * MB):
            for _ in range(10):
                clock.now += 1
                one.advance(rate)
            assert record.advanced[-1].rate == pytest.approx(rate)


def test_what_an_earlier_run_downloaded_is_not_counted_to_the_rate(record: Record) -> None:
    clock = Clock()
    with task(record, "download", "base", clock=clock) as one:
        clock.now += 3  # the server takes its time
        one.restart(300 * MB, 400 * MB)
        clock.now += 1
        one.advance(2 * MB)
        assert record.advanced == [Advanced("download", "base", 302 * MB, 400 * MB, 2e6, 49.0)]
        one.restart(0, 400 * MB)  # the file on the server changed
        clock.now += 1
        one.advance(4 * MB)
    assert record.advanced[-1] == Advanced("download", "base", 4 * MB, 400 * MB, 4e6, 99.0)


def test_who_knows_the_time_left_of_the_subject_says_it(record: Record) -> None:
    with task(record, "write", "card", 10, left=lambda: 77.0) as one:
        one.advance(10)
    assert record.advanced[-1].left == 77.0


def test_nothing_else_makes_these_events() -> None:
    """Whoever made them by hand might not make the last of them."""
    package = Path(imagebuilder.__file__).parent
    made = {
        f"{file.relative_to(package)}:{node.lineno}"
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
        in ("Started", "Advanced", "Finished")
    }
    assert {one.partition(":")[0] for one in made} == {"progress.py"}
    assert len(made) == 3
