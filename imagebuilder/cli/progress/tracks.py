"""How far each subject is, how fast, and how long it will take, by its last events; for the renderers."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from imagebuilder.events import Advanced, Finished, Started

WHOLE = frozenset({"flash", "verify", "build"})
"""Tasks that span all others of their subject: when one ends, the subject has come to its end."""

_SILENCE = 5.0  # seconds without an event, after which nothing is said of rate and time left
_PAUSE = 2.0  # seconds between two tasks at most: after that, a subject nobody expected is done


class State(StrEnum):
    """Where a subject is on its way."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class Track:
    """One subject. Sizes in bytes, times in seconds of the caller's clock.

    ``size`` is what the subject was expected with; ``done`` of ``total`` belong to ``task``, and ``before``
    is what earlier tasks got through. ``note`` is what its line says while nothing is done to it.
    """

    subject: str
    title: str
    size: int | None = None
    note: str = ""
    task: str = ""
    done: int = 0
    total: int | None = None
    before: int = 0
    begun: float | None = None
    ended: float | None = None
    ok: bool = True
    _whole: bool = False  # a task of WHOLE was begun: its end will be told
    _rate: float | None = None
    _left: tuple[float, float] | None = None  # when an event gave the time left, and that time
    _heard: float = 0.0
    _task_ended: float | None = None

    def apply(self, event: Started | Advanced | Finished, now: float) -> None:
        """Take in an event of this subject."""
        self._heard = now
        self.begun = now if self.begun is None else self.begun
        match event:
            case Started(task, _, total):
                self.ended, self.ok = None, True
                if task in WHOLE:
                    self._whole = True
                else:
                    self._next(task, total)
            case Advanced(task, _, done, total, rate, left):
                if task != self.task:
                    self._next(task, total)
                self.done, self.total, self._rate = done, total, rate
                self._left = None if left is None else (now, left)
            case Finished(task, _, ok):
                self._task_ended = now
                self.ok = self.ok and ok
                if task in WHOLE or not ok:
                    self.ended = now

    def _next(self, task: str, total: int | None) -> None:
        self.before += self.done
        self.task, self.done, self.total, self._rate = task, 0, total, None
        self._task_ended = None

    def end(self, now: float) -> None:
        """Nothing more will come. What is between two tasks has come to its end."""
        if self.ended is None and self._task_ended is not None:
            self.ended = now

    def state(self, now: float) -> State:
        if self.begun is None:
            return State.WAITING
        over = self._task_ended is not None and now - self._task_ended > _PAUSE
        if over and self.ended is None and not self._whole and self.size is None:
            self.ended = self._task_ended
        if self.ended is None:
            return State.RUNNING
        return State.DONE if self.ok else State.FAILED

    @property
    def moved(self) -> int:
        """The bytes that went through in all tasks."""
        return self.before + self.done

    def elapsed(self, now: float) -> float:
        """Seconds from the first event to the end, or until now."""
        return 0.0 if self.begun is None else (now if self.ended is None else self.ended) - self.begun

    def rate(self, now: float) -> float | None:
        """Bytes a second, by the last event; None between two tasks and when that event is too old."""
        return None if now - self._heard > _SILENCE or self._task_ended is not None else self._rate

    def left(self, now: float) -> float | None:
        """Seconds left, by the last event that gave them; None when not known, and when it is too old."""
        if now - self._heard > _SILENCE or self._left is None:
            return None
        heard, left = self._left
        return max(0.0, left - (now - heard))


class Tracks:
    """All subjects, in the order in which they were expected or first heard of."""

    def __init__(self) -> None:
        self.all: dict[str, Track] = {}
        self._lines: dict[str, str] = {}  # the subjects that have the line of another
        self._at_once = 1  # how many were seen running at the same time

    def expect(self, subject: str, total: int, title: str, line: str = "") -> None:
        """Announce a subject that ``total`` bytes belong to. It takes over the ``line`` of another."""
        self._lines[subject] = line or subject
        self.all[line or subject] = Track(subject, title, total)

    def note(self, line: str, title: str, text: str) -> bool:
        """Have ``line`` say a text for now; whether it is another than before. Without text it goes."""
        before = self.all.get(line)
        if before is not None and (before.title, before.note) == (title, text):
            return False
        if text:
            self.all[line] = Track(line, title, note=text)
        else:
            self.all.pop(line, None)
        return True

    def arrange(self, lines: Sequence[str]) -> None:
        """Put ``lines`` into this order, before all others."""
        first = {line: self.all[line] for line in lines if line in self.all}
        self.all = first | self.all

    def apply(self, event: Started | Advanced | Finished, now: float) -> Track:
        """Take in an event; give the track of its subject."""
        line = self._lines.get(event.subject, event.subject)
        track = self.all.setdefault(line, Track(event.subject, event.subject))
        track.apply(event, now)
        self._at_once = max(self._at_once, len(self.running(now)))
        return track

    def running(self, now: float) -> list[Track]:
        return [track for track in self.all.values() if track.state(now) is State.RUNNING]

    def unfinished(self, now: float) -> list[Track]:
        """Those that have not come to a good end, nor to a bad one."""
        return [one for one in self.all.values() if one.state(now) in (State.WAITING, State.RUNNING)]

    def left(self, now: float) -> float | None:
        """Seconds until all have come to their end; None when not known.

        That of the slowest that runs. Those that wait take their turns as places become free, each at the
        pace of those that ran.
        """
        pace = self._pace(now)
        ends = [_left(track, pace, now) for track in self.running(now)]
        known = [end for end in ends if end is not None]
        waiting = [track for track in self.all.values() if track.state(now) is State.WAITING]
        if len(known) < len(ends) or (waiting and pace is None) or not (ends or waiting):
            return None
        known += [0.0] * (self._at_once - len(known))
        heapq.heapify(known)
        for track in waiting:
            heapq.heapreplace(known, known[0] + (pace or 0.0) * (track.size or 0))
        return max(known)

    def _pace(self, now: float) -> float | None:
        """Seconds a byte of a subject's size, the mean of those that ran to a good end or know theirs."""
        return _mean(
            (track.elapsed(now) + left) / track.size
            for track in self.all.values()
            if track.size and track.state(now) in (State.RUNNING, State.DONE)
            if (left := 0.0 if track.ended is not None else track.left(now)) is not None
        )


def _left(track: Track, pace: float | None, now: float) -> float | None:
    left = track.left(now)
    if left is None and pace is not None and track.size and track.moved == 0:  # it has just begun
        return max(0.0, pace * track.size - track.elapsed(now))
    return left


def _mean(values: Iterable[float]) -> float | None:
    given: Sequence[float] = list(values)
    return sum(given) / len(given) if given else None
