"""What the bars look like: tracks to lines of text, for any size of terminal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm  # draws a bar to an eighth of a column, or in ASCII; screen.py: why it does not paint
from tqdm.utils import disp_len, disp_trim  # measure and cut text by the columns that wide characters take

from imagebuilder.cli.format import duration, size
from imagebuilder.cli.progress.tracks import State, Track, Tracks
from imagebuilder.text import printable

_PHASE, _PERCENT, _RATE, _LEFT = 9, 4, 10, 7  # columns of each field
_WIDEST = 100  # columns; in a wider window nothing is gained
_HEAD = 24  # columns of a title, at least, where the line of the whole batch has as much to say
_BAR = 8  # columns of a bar with its ends, at least
_WITH_BAR, _WITH_RATE = 64, 48  # columns of a window from which on there is room for it
_UNKNOWN = "--:--"


@dataclass(frozen=True)
class Look:
    """How to draw: the columns that may be used, the width of titles, and what bars are made of."""

    width: int
    title: int
    ascii: bool = False
    stopping: bool = False  # the user wished to stop: what ends now has not failed

    def line(self, head: str, percent: float | None, middle: str | None, tail: str) -> str:
        """A line of the block: title and phase; ``middle`` in place of a bar; rate and time left, or so."""
        fields = [_fit(head, self.title + 1 + _PHASE)]
        fields.append(f"{'' if percent is None else f'{int(percent)}%':>{_PERCENT}}")
        if self.width >= _WITH_BAR:
            fields.append(self._bar(percent or 0) if middle is None else _fit(middle, self._room))
        if self.width >= _WITH_RATE:
            fields.append(f"{tail:>{_RATE + 1 + _LEFT}}")
        else:
            fields.append(f"{''.join(tail.split()[-1:]):>{_LEFT}}")
        return str(disp_trim(" ".join(fields).rstrip(), self.width))

    def text(self, title: str, text: str) -> str:
        """A line of the block that only says something."""
        return str(disp_trim(_fit(title, self.title) + " " + printable(text, None), self.width)).rstrip()

    def _bar(self, percent: float) -> str:
        drawn = tqdm.format_meter(percent, 100, 0, ncols=self._room, ascii=self.ascii, bar_format="|{bar}|")
        return str(drawn)

    @property
    def _room(self) -> int:
        """The columns that are left for the bar."""
        return self.width - self.title - _PHASE - _PERCENT - _RATE - _LEFT - 5


def _fit(text: str, width: int) -> str:
    """``text`` in exactly ``width`` columns; what is cut off is marked."""
    text = printable(text, None)
    if disp_len(text) > width:
        text = f"{disp_trim(text, width - 1)}~"
    return f"{text}{' ' * (width - disp_len(text))}"


def width_of(columns: int) -> int:
    """How wide a line may be in a window of so many columns."""
    return max(1, min(columns - 1, _WIDEST))  # as wide as the window, it would move the cursor on


def lines(
    tracks: Tracks, now: float, columns: int, rows: int | None, ascii: bool = False, stopping: bool = False
) -> list[str]:
    """The block: a line a subject, and where several were expected one for all of them.

    Fits into a window of ``columns`` and ``rows``: where there are more subjects than rows, those that
    failed go first, then those at work, and the rest is summed up in a line. ``rows`` None: all of them.
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
        room = width - _PHASE - _PERCENT - _RATE - _LEFT - 5 - _BAR
    else:
        room = width - _PHASE - _PERCENT - _LEFT - 3 - (_RATE + 1 if width >= _WITH_RATE else 0)
    return max(1, min(need, room) if width >= _WITH_BAR else room)


def _chosen(every: Sequence[Track], now: float, room: int | None) -> tuple[list[Track], list[Track]]:
    """Those to be shown, and those for which there is no room; both in their order."""
    if room is None or len(every) <= room:
        return list(every), []
    ranks = {State.FAILED: 0, State.RUNNING: 1, State.WAITING: 2, State.DONE: 3}
    order = [ranks[track.state(now)] if track.title else -1 for track in every]  # a question has no title
    ranked = sorted(range(len(every)), key=order.__getitem__)
    first = set(ranked[: max(0, room - 1)])  # a line is needed for the rest
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
    """One line for all that have none of their own: what they do, and the longest time left."""
    what = f"{len(hidden)} {'more: ' if after else ''}{_counts(hidden, now, look.stopping)}"
    running = [track for track in hidden if track.state(now) is State.RUNNING]
    lefts = [track.left(now) for track in running]
    known = [left for left in lefts if left is not None]
    longest = max(known, default=None) if len(known) == len(lefts) else None
    tail = _tail(_sum_of_rates(running, now), longest) if running else ""
    return look.line(what, None, _size_of(hidden), tail)


def _whole(look: Look, tracks: Tracks, now: float) -> str:
    """The line of the whole batch. Its percentage is that of the time, which is what one waits for."""
    every = [track for track in tracks.all.values() if track.size is not None]
    begun = min((track.begun for track in every if track.begun is not None), default=now)
    counts = _counts(every, now, look.stopping, at_work=False)
    what = f"all {len(every)}" + (f": {counts}" if counts else "")
    if all(track.ended is not None for track in every):
        ended = max((track.ended for track in every if track.ended is not None), default=now)
        return look.line(what, None, _size_of(every), f"in {duration(ended - begun)}")
    left = tracks.left(now)
    percent = None if left is None else 100 * (now - begun) / max(now - begun + left, 1e-9)
    return look.line(what, percent, _size_of(every), _tail(_sum_of_rates(tracks.running(now), now), left))


def _counts(some: Sequence[Track], now: float, stopping: bool, at_work: bool = True) -> str:
    """How many are done, failed, waiting; and with ``at_work`` how many are at which task."""
    named = []
    for track in some:
        state = track.state(now)
        if state is State.RUNNING:
            named.append((track.task or "begun") if at_work else "")
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
    """A rate and a time left, each in its column."""
    speed = "" if rate is None else f"{size(int(rate))}/s"
    time = _UNKNOWN if left is None else duration(left)
    return f"{speed:>{_RATE}} {time:>{_LEFT}}"
