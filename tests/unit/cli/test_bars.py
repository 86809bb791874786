"""Bars: what stands on a real terminal of any size, and times left."""

import re
import threading
import time

import pytest

from imagebuilder.cli.errors import print_error
from imagebuilder.cli.format import size
from imagebuilder.cli.progress import layout as drawing
from imagebuilder.cli.progress.bars import Bars
from imagebuilder.cli.progress.tracks import State, Track, Tracks
from imagebuilder.errors import PiimgError
from imagebuilder.events import Advanced, Event, Finished, Message, Started
from imagebuilder.progress import task
from tests.support.terminal import window

BODY = 1_761_607_680  # bytes; 1680 MiB
PIECE = 4 << 20
WRITING, READING = 13.4e6, 60e6  # bytes a second


def device(number: int) -> str:
    return f"/dev/sd{chr(ord('b') + number)}"


def title(number: int) -> str:
    return f"worker{number:<2} usb 1-1.{number}"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def flash_some(bars: Bars, clock: Clock, count: int, share: float, reported: bool = True) -> None:
    """``count`` cards are at ``share`` of writing, each a little further than the one before."""
    begun = clock.now
    for number in range(count):
        bars.emit(Started("flash", device(number)))
        bars.emit(Started("write", device(number), BODY))
    for step in range(1, 21):
        clock.now = begun + step * share * BODY / WRITING / 20
        for number in range(count):
            done = int(BODY * share * step / 20 * (1 - number / 100))
            rate = WRITING * (1 - number / 100)
            left = (BODY - done) / rate + BODY / READING
            more = (rate, left) if reported else (None, None)
            bars.emit(Advanced("write", device(number), done, BODY, *more))


def expect(bars: Bars, count: int) -> None:
    for number in range(count):
        bars.expect(device(number), BODY, title(number))


ROW = re.compile(r"^worker\d+ +usb 1-1\.\d+ +write +\d+% \|.*\| +[\d.]+ MB/s +\d+:\d\d$")


def test_six_cards_at_80_columns() -> None:
    clock = Clock()
    with window(80, 24) as (seen, stream), Bars(stream, clock=clock) as bars:
        expect(bars, 6)
        flash_some(bars, clock, 6, 0.5)
        lines = seen.wait_for(lambda lines: "50%" in "".join(lines))
    assert len(lines) == 7
    assert all(ROW.match(line) for line in lines[:6]), lines
    assert len({line.index("|") for line in lines[:6]}) == 1
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) < 80
    assert lines[0].startswith(title(0)) and "13.4 MB/s" in lines[0]
    assert lines[0].endswith("1:35")  # 65.7 s of writing, 29.4 s of reading
    together = sum(int(BODY * 0.5 * (1 - number / 100)) for number in range(6))
    assert lines[6].startswith("all 6 ") and size(together) in lines[6] and "78.4 MB/s" in lines[6]
    slowest = (BODY - BODY * 0.5 * 0.95) / (WRITING * 0.95) + BODY / READING
    assert lines[6].endswith(f"{int(slowest) // 60}:{round(slowest) % 60:02}")


def test_nothing_jumps_from_one_painting_to_the_next() -> None:
    clock = Clock()
    screens = []
    with window(80, 24) as (seen, stream), Bars(stream, clock=clock) as bars:
        expect(bars, 6)
        for share in (0.05, 0.3, 0.6, 0.95):
            flash_some(bars, clock, 6, share)
            percent = f" {int(share * 100)}%"
            screens.append(seen.wait_for(lambda lines, percent=percent: percent in lines[0]))  # type: ignore[misc]
    places = {tuple(line.index("|") for line in lines[:6]) for lines in screens}
    ends = {tuple(len(line) for line in lines) for lines in screens}
    assert len(places) == 1 and len(ends) == 1
    assert [line[:20] for line in screens[0][:6]] == [line[:20] for line in screens[-1][:6]]


def test_24_cards_in_24_rows_are_summed_up_and_nothing_scrolls() -> None:
    clock = Clock()
    with window(80, 24) as (seen, stream), Bars(stream, clock=clock) as bars:
        print("a line that was there before", file=stream, flush=True)
        expect(bars, 24)
        flash_some(bars, clock, 22, 0.5)  # two wait
        bars.emit(Finished("write", device(21), ok=False))  # it must be among those shown
        bars.emit(Finished("flash", device(21), ok=False))
        lines = seen.wait_for(lambda lines: "1 failed" in lines[-1] and "50%" in "".join(lines))
        seen.settle()
        assert seen.everything == seen.lines  # nothing was scrolled away
        assert lines[0] == "a line that was there before"
        assert len(lines) == 24
        shown = [line for line in lines if line.startswith("worker")]
        assert len(shown) == 21 and "failed" in shown[-1] and shown[-1].startswith(title(21))
        more = lines[-2]
        assert more.startswith("3 more: 1 write, 2 waiting")
        hidden = next(number for number in range(22) if title(number) not in "\n".join(shown))
        assert size(int(BODY * 0.5 * (1 - hidden / 100))) in more
        assert lines[-1].startswith("all 24: 1 failed, 2 waiting")
        for number in range(21):
            bars.emit(Finished("flash", device(number)))
        seen.wait_for(lambda lines: "21 done" in lines[-1])
        assert seen.lines[0] == "a line that was there before"
        bars.close()
        seen.settle()
    # At the end each card is reported, once.
    seen_at_end = [line for line in seen.everything if line.startswith("worker")]
    assert [line[:8].split()[0] for line in seen_at_end] == [f"worker{number}" for number in range(24)]


def test_25_rows_have_room_for_24_cards_less_one() -> None:
    clock = Clock()
    with window(80, 26) as (seen, stream), Bars(stream, clock=clock) as bars:
        expect(bars, 24)
        flash_some(bars, clock, 24, 0.5)
        lines = seen.wait_for(lambda lines: "50%" in "".join(lines))
    assert len(lines) == 25 and not any("more" in line for line in lines)


@pytest.mark.parametrize(("columns", "rows"), [(40, 24), (40, 6), (20, 4), (63, 12), (8, 3), (1, 1)])
def test_a_small_window_is_never_overrun(columns: int, rows: int) -> None:
    clock = Clock()
    with window(columns, rows) as (seen, stream), Bars(stream, clock=clock) as bars:
        expect(bars, 6)
        for share in (0.2, 0.5):
            flash_some(bars, clock, 6, share)
            seen.settle(0.5)
        assert not seen.screen.history.top
        lines = seen.lines
        assert len(lines) <= max(1, rows - 1)
    if columns == 40 and rows == 24:
        assert all(re.match(r"^worker\d .* write +\d\d%    \d:\d\d$", line) for line in lines[:6]), lines
        assert re.match(r"^all 6 .* \d:\d\d$", lines[6])


def test_a_line_in_between_stands_above_and_garbles_nothing() -> None:
    clock = Clock()
    long = "a message that is longer than the window is wide: " + "x" * 60
    with window(80, 24) as (seen, stream), Bars(stream, clock=clock) as bars:
        expect(bars, 6)
        flash_some(bars, clock, 6, 0.5)
        seen.wait_for(lambda lines: "50%" in "".join(lines))
        bars.emit(Message("info", "one"))
        bars.emit(Message("warning", long, device(1)))
        print_error(PiimgError("it went wrong", "do this\nor that"), bars)
        lines = seen.wait_for(lambda lines: "or that" in "".join(lines))
        assert lines[0] == "one"
        assert f"{lines[1]} {lines[2].strip()}" == f"warning: {device(1)}: {long}"
        assert lines[3:6] == ["piimg: it went wrong", "       do this", "       or that"]
        assert len(lines) == 13 and all(ROW.match(line) for line in lines[6:12]), lines
        for number in range(30):
            bars.emit(Message("info", f"message {number}"))
        lines = seen.wait_for(lambda lines: "message 29" in lines)
        assert [line for line in seen.everything if line.startswith("message")] == [
            f"message {number}" for number in range(30)
        ]
        assert len([line for line in seen.everything if ROW.match(line)]) == 6
    assert [line for line in seen.everything if line == "one"] == ["one"]


@pytest.mark.parametrize("to", [(50, 24), (110, 24), (80, 5), (30, 10)])
def test_a_resized_window_is_painted_anew(to: tuple[int, int]) -> None:
    clock = Clock()
    with window(80, 24) as (seen, stream), Bars(stream, clock=clock) as bars:
        expect(bars, 6)
        flash_some(bars, clock, 6, 0.5)
        seen.wait_for(lambda lines: "50%" in "".join(lines))
        seen.resize(*to)
        seen.settle(0.8)
        fresh = drawing.lines(bars._tracks, clock.now, *to)
        assert seen.lines[-len(fresh) :] == fresh
        assert len([line for line in seen.lines if line.startswith("all 6")]) == 1


def test_how_cards_ended_is_reported() -> None:
    clock = Clock()
    with window(80, 24) as (seen, stream):
        with Bars(stream, clock=clock) as bars:
            expect(bars, 4)
            flash_some(bars, clock, 3, 0.5)
            clock.now += 10
            bars.emit(Finished("write", device(0)))
            bars.emit(Finished("flash", device(0)))
            bars.emit(Finished("write", device(1), ok=False))
            bars.emit(Finished("flash", device(1), ok=False))
            lines = seen.wait_for(lambda lines: "failed" in "".join(lines))
            assert re.search(r"done +100% .* in 1:16$", lines[0])
            assert re.search(r"failed +49% .* after 1:16$", lines[1])
            assert "write" in lines[2] and lines[3].split()[3] == "waiting"
            assert lines[4].startswith("all 4: 1 done, 1 failed, 1 waiting")
            assert bars.unfinished() == [title(2), title(3)]
            bars.stopping = True
            bars.emit(Finished("flash", device(2), ok=False))
        seen.settle(0.2)
        assert "stopped" in seen.lines[2]


def test_a_held_terminal_holds_up_nobody() -> None:
    """Ctrl-S: nothing is read from the terminal any more. Whoever emits must not wait for it."""
    with window(80, 24) as (seen, stream):
        bars = Bars(stream)
        bars.expect(device(0), BODY, title(0))
        begun = time.monotonic()
        for number in range(3000):  # far more than the terminal takes unread
            bars.emit(Message("info", "y" * 78))
            bars.emit(Advanced("write", device(0), number, BODY))
            if number % 1000 == 0:
                time.sleep(0.5)  # lets the painter run into it
        assert time.monotonic() - begun < 4
        closing = threading.Thread(target=bars.close)
        closing.start()
        while closing.is_alive():
            seen.read(0.05)
        seen.settle(0.2)
    assert seen.lines[-1].startswith(title(0))


class Applied:
    """A Reporter whose events go to the tracks of a bar."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.tracks = clock, Tracks()

    def emit(self, event: Event) -> None:
        assert not isinstance(event, Message)
        self.tracks.apply(event, self.clock.now)


@pytest.mark.parametrize("whole", [True, False])
def test_time_left_is_right_from_a_tenth_on(whole: bool) -> None:
    """A steady card: what the bar says against what it took, at every piece.

    ``whole``: the time left is that of all tasks, as of a card; else of this one.
    """
    clock = Clock()
    applied, begun, done = Applied(clock), clock.now, 0
    applied.tracks.expect("a", BODY, "a")
    end = BODY / WRITING + (BODY / READING if whole else 0)

    def left() -> float:
        return (BODY - done) / WRITING + BODY / READING

    checked = 0
    with task(applied, "write", "a", BODY, left=left if whole else None, clock=clock) as writing:
        for done in range(PIECE, BODY + 1, PIECE):
            clock.now = begun + done / WRITING
            writing.advance(PIECE)
            for later in (0.0, 0.2):  # also between two events
                real = begun + end - clock.now - later
                if real <= 0.9 * end and real > 3:
                    (line,) = drawing.lines(applied.tracks, clock.now + later, 80, 24)
                    said = shown(line)
                    assert abs(said - real) <= max(0.15 * real, 0.5 + 0.15 * real), (done, line, real)
                    checked += 1
    assert checked > 500


def shown(line: str) -> int:
    """The seconds at the end of a line."""
    parts = [int(part) for part in line.split()[-1].split(":")]
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def test_time_left_of_a_real_steady_run() -> None:
    """Real time: 6 s of copying in pieces, as a thread does it, read off a real terminal."""
    rate, total, piece = 10_000_000, 60_000_000, 500_000
    checked = 0
    with window(80, 24) as (seen, stream), Bars(stream) as bars:
        bars.expect("a", total, "a card")
        begun = time.monotonic()

        def work() -> None:
            with task(bars, "write", "a", total) as writing:
                for done in range(piece, total + 1, piece):
                    time.sleep(max(0.0, begun + done / rate - time.monotonic()))
                    writing.advance(piece)

        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            seen.read(0.05)
            now = time.monotonic() - begun
            if seen.lines and 0.6 < now < 5 and re.search(r"\d:\d\d$", seen.lines[0]):
                # The screen shows whole seconds, and is up to a painting old.
                assert abs(shown(seen.lines[0]) - (6 - now)) <= 0.15 * (6 - now) + 0.5 + 0.25, seen.lines
                checked += 1
        worker.join()
    assert checked > 10


def test_waiting_cards_are_counted_in() -> None:
    """Ten cards, two at a time: each takes its 100 s, so after 50 s there are 450 s left."""
    tracks = Tracks()
    for number in range(10):
        tracks.expect(device(number), BODY, title(number))
    for number in range(2):
        tracks.apply(Started("flash", device(number)), 0)
        tracks.apply(Started("write", device(number), BODY), 0)
        tracks.apply(Advanced("write", device(number), BODY // 2, BODY, BODY / 100, 50.0), 50)
    assert tracks.left(50) == pytest.approx(450)
    for number in range(2):
        tracks.apply(Finished("flash", device(number)), 100)
    assert tracks.left(100) == pytest.approx(400)
    tracks.apply(Started("write", device(2), BODY), 101)
    tracks.apply(Started("write", device(3), BODY), 101)  # has reported nothing yet
    assert tracks.left(110) == pytest.approx(91 + 300)


def test_the_batch_takes_as_long_as_its_slowest() -> None:
    tracks = Tracks()
    for number, left in enumerate((10.0, 300.0, 20.0)):
        tracks.expect(device(number), BODY, title(number))
        tracks.apply(Advanced("write", device(number), 1, BODY, 1.0, left), 0)
    assert tracks.left(2) == pytest.approx(298)
    tracks.apply(Advanced("write", device(0), 1, BODY), 2)  # one that nobody knows anything of
    assert tracks.left(2) is None


def test_of_a_silent_card_nothing_is_made_up() -> None:
    track = Track("a", "a", BODY)
    track.apply(Started("write", "a", BODY), 0)
    track.apply(Advanced("write", "a", 5, BODY, 1e6, 100.0), 1)
    assert track.left(3) == 98
    assert (track.rate(30), track.left(30)) == (None, None)
    assert track.state(30) is State.RUNNING


def test_without_a_whole_task_the_end_is_seen_from_the_pause() -> None:
    track = Track("base", "base")
    track.apply(Started("download", "base", 10), 0)
    track.apply(Finished("download", "base"), 5)
    assert track.state(5.1) is State.RUNNING
    track.apply(Started("unpack", "base", 10), 5.2)
    track.apply(Finished("unpack", "base"), 9)
    assert track.state(20) is State.DONE
    assert track.elapsed(20) == 9


def test_a_card_between_two_tasks_is_not_called_done() -> None:
    """After the read-back the first MiB is still to be written, and that may take its time."""
    track = Track(device(0), title(0), BODY)
    track.apply(Started("read-back", device(0), BODY), 0)
    track.apply(Finished("read-back", device(0)), 5)
    assert track.state(100) is State.RUNNING
    track.apply(Finished("flash", device(0)), 101)
    assert track.state(101) is State.DONE
    assert track.elapsed(200) == 101


def test_a_node_being_built_has_a_line() -> None:
    clock = Clock()
    with window(80, 24) as (seen, stream), Bars(stream, clock=clock) as bars:
        for node in ("master", "worker1"):
            bars.emit(Started("copy", node))
        clock.now += 3
        bars.emit(Started("inject", "master"))
        bars.emit(Started("map", "worker1", 1000))
        bars.emit(Advanced("map", "worker1", 500, 1000))
        lines = seen.wait_for(lambda lines: "50%" in "".join(lines))
    assert lines[0].split() == ["master", "inject", "for", "0:03"]
    assert lines[1].split()[:3] == ["worker1", "map", "50%"]
    assert len(lines) == 2


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 30, None])
def test_many_cards_in_one_state_fit_any_window(state: State, rows: int | None) -> None:
    tracks = Tracks()
    for number in range(24):
        tracks.expect(device(number), BODY, title(number))
        if state is not State.WAITING:
            tracks.apply(Started("write", device(number), BODY), 0)
        if state in (State.DONE, State.FAILED):
            tracks.apply(Finished("flash", device(number), ok=state is State.DONE), 3)
    for columns in (1, 2, 10, 40, 47, 48, 63, 64, 80, 500):
        block = drawing.lines(tracks, 5, columns, rows)
        assert len(block) == (25 if rows in (None, 30) else max(1, (rows or 0) - 1))
        assert all(len(line) < max(2, columns) for line in block)
        if columns >= 64 and state is not State.RUNNING:
            assert f"24 {state}" in block[-1]


def test_without_utf_8_bars_are_ascii() -> None:
    tracks = Tracks()
    tracks.apply(Advanced("write", "a", 5, 10), 0)
    (line,) = drawing.lines(tracks, 0, 80, 24, ascii=True)
    assert line.isascii() and "|" in line
