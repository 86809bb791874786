"""The layout of the bars: tracks to lines of text, for any size of terminal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm  # draws a bar in eighths of a column, or in ASCII; screen.py says why it does not paint
from tqdm.utils import disp_len, disp_trim  # measure and cut text by the columns that wide characters take

from imagebuilder.cli.format import duration, size
from imagebuilder.cli.progress.tracks import State, Track, Tracks
from imagebuilder.text import printable

_PHASE, _PERCENT, _RATE, _LEFT = 9, 4, 10, 7  # columns of each field
_WIDEST = 100  # columns
_HEAD = 24  # minimal columns of a title when there is a line for the whole batch
_BAR = 8  # minimal columns of a bar with its ends
_WITH_BAR, _WITH_RATE = 64, 48  # minimal columns of a window that shows it
_UNKNOWN = "--:--"


@dataclass(frozen=True)
class Look:
    """How to draw: usable columns, width of titles, and characters of the bars."""

    width: int
    title: int
    ascii: bool = False
    stopping: bool = False  # the user asked to stop: tasks that end now have not failed

    def line(self, head: str, percent: float | None, middle: str | None, tail: str) -> str:
        """A line of the block: title and phase, a bar or ``middle``, and ``tail`` (rate and time left)."""
        fields = [_fit(head, self.title + 1 + _PHASE)]
        fields.append(f"{'' if percent is None else f'{int(percent)}%':>{_PERCENT}}")
        if self.width >= _WITH_BAR:
            fields.append(self._bar(percent or 0) if middle is None else _fit(middle, self._bar_width))
        if self.width >= _WITH_RATE:
            fields.append(f"{tail:>{_RATE + 1 + _LEFT}}")
        else:
            fields.append(f"{''.join(tail.split()[-1:]):>{_LEFT}}")
        return str(disp_trim(" ".join(fields).rstrip(), self.width))

    def text(self, title: str, text: str) -> str:
        """A line of the block that only says something."""
        return str(disp_trim(_fit(title, self.title) + " " + printable(text, None), self.width)).rstrip()

    def _bar(self, percent: float) -> str:
        drawn = tqdm.format_meter(
            percent, 100, 0, ncols=self._bar_width, ascii=self.ascii, bar_format="|{bar}|"
        )
        return str(drawn)

    @property
    def _bar_width(self) -> int:
        """The columns for the bar."""
        return self.width - self.title - _PHASE - _PERCENT - _RATE - _LEFT - 5


def _fit(text: str, width: int) -> str:
    """``text`` in exactly ``width`` columns; a truncated text ends in ~."""
    text = printable(text, None)
    if disp_len(text) > width:
        text = f"{disp_trim(text, width - 1)}~"
    return f"{text}{' ' * (width - disp_len(text))}"


def width_of(columns: int) -> int:
    """The width of a line in a window of ``columns``."""
    return max(1, min(columns - 1, _WIDEST))  # a line as wide as the window would move the cursor


def lines(
    tracks: Tracks, now: float, columns: int, rows: int | None, ascii: bool = False, stopping: bool = False
) -> list[str]:
    """The block: a line for each subject, and one for the whole batch if several are expected.

    It fits into a window of ``columns`` and ``rows``. If there are more subjects than rows, failed ones are
    shown first, then running ones, and one line summarises the rest. ``rows`` None: no limit.
    """
    width = width_of(columns)
    every = list(tracks.all.values())
    batch = sum(track.size is not None for track in every) > 1
    look = Look(width, _title_width(every, width, batch), ascii, stopping)
    shown, hidden = _chosen(every, now, None if rows is None else max(1, rows - 1) - batch)
    block = [_line(look, track, now) for track in shown]
    if hidden:
        block.append(_more(look, hidden, now, bool(shown)))
    if batch:
        block.append(_whole(look, tracks, now))
    return block if rows is None else block[-max(1, rows - 1) :]


def _title_width(every: Sequence[Track], width: int, batch: bool) -> int:
    need = max((disp_len(track.title) for track in every), default=0)
    need = max(need, _HEAD) if batch else need
    if width >= _WITH_BAR:
        available = width - _PHASE - _PERCENT - _RATE - _LEFT - 5 - _BAR
    else:
        available = width - _PHASE - _PERCENT - _LEFT - 3 - (_RATE + 1 if width >= _WITH_RATE else 0)
    return max(1, min(need, available) if width >= _WITH_BAR else available)


def _chosen(every: Sequence[Track], now: float, limit: int | None) -> tuple[list[Track], list[Track]]:
    """The tracks to be shown, at most ``limit`` lines, and the hidden ones; both in their order."""
    if limit is None or len(every) <= limit:
        return list(every), []
    ranks = {State.FAILED: 0, State.RUNNING: 1, State.WAITING: 2, State.DONE: 3}
    order = [ranks[track.state(now)] if track.title else -1 for track in every]  # a question has no title
    ranked = sorted(range(len(every)), key=order.__getitem__)
    first = set(ranked[: max(0, limit - 1)])  # one line is for the rest
    shown = [track for index, track in enumerate(every) if index in first]
    return shown, [track for index, track in enumerate(every) if index not in first]


def _line(look: Look, track: Track, now: float) -> str:
    if track.note and track.begun is None:
        return look.text(track.title, track.note)
    state, took = track.state(now), duration(track.elapsed(now))
    head = f"{_fit(track.title, look.title)} "
    percent = min(100.0, 100 * track.done / track.total) if track.total else None
    match state:
        case State.WAITING:
            return look.line(head + state, None, None, "")
        case State.DONE:
            return look.line(head + state, 100, None, f"in {took}")
        case State.FAILED:
            return look.line(head + ("stopped" if look.stopping else state), percent, None, f"after {took}")
    if percent is None:
        return look.line(head + track.task, None, "", f"for {took}")
    return look.line(head + track.task, percent, None, _tail(track.rate(now), track.left(now)))


def _more(look: Look, hidden: Sequence[Track], now: float, after: bool) -> str:
    """The line for all hidden tracks: their states, and the longest time left."""
    what = f"{len(hidden)} {'more: ' if after else ''}{_counts(hidden, now, look.stopping)}"
    running = [track for track in hidden if track.state(now) is State.RUNNING]
    lefts = [track.left(now) for track in running]
    known = [left for left in lefts if left is not None]
    longest = max(known, default=None) if len(known) == len(lefts) else None
    tail = _tail(_sum_of_rates(running, now), longest) if running else ""
    return look.line(what, None, _size_of(hidden), tail)


def _whole(look: Look, tracks: Tracks, now: float) -> str:
    """The line of the whole batch. Its percentage is the share of the estimated total time."""
    every = [track for track in tracks.all.values() if track.size is not None]
    begun = min((track.begun for track in every if track.begun is not None), default=now)
    counts = _counts(every, now, look.stopping, with_tasks=False)
    what = f"all {len(every)}" + (f": {counts}" if counts else "")
    if all(track.ended is not None for track in every):
        ended = max((track.ended for track in every if track.ended is not None), default=now)
        return look.line(what, None, _size_of(every), f"in {duration(ended - begun)}")
    left = tracks.left(now)
    percent = None if left is None else 100 * (now - begun) / max(now - begun + left, 1e-9)
    return look.line(what, percent, _size_of(every), _tail(_sum_of_rates(tracks.running(now), now), left))


def _counts(some: Sequence[Track], now: float, stopping: bool, with_tasks: bool = True) -> str:
    """How many are done, failed, waiting; with ``with_tasks`` also how many run each task."""
    named = []
    for track in some:
        state = track.state(now)
        if state is State.RUNNING:
            named.append((track.task or "begun") if with_tasks else "")
        else:
            named.append("stopped" if state is State.FAILED and stopping else state.value)
    counts = Counter(named)
    order = dict.fromkeys(("done", "failed", "stopped", *sorted(counts)))
    order["waiting"] = order.pop("waiting", None)  # comes last
    return ", ".join(f"{counts[name]} {name}" for name in order if name and counts[name])


def _size_of(some: Sequence[Track]) -> str:
    moved = sum(track.moved for track in some)
    return size(moved) if moved else ""


def _sum_of_rates(some: Sequence[Track], now: float) -> float | None:
    rates = [rate for track in some if (rate := track.rate(now)) is not None]
    return sum(rates) if rates else None


def _tail(rate: float | None, left: float | None) -> str:
    """Rate and time left, in their columns."""
    speed = "" if rate is None else f"{size(int(rate))}/s"
    time = _UNKNOWN if left is None else duration(left)
    return f"{speed:>{_RATE}} {time:>{_LEFT}}"
