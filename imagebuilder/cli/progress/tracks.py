"""Progress, rate and time left of each subject, from its last events; for the renderers."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from imagebuilder.events import Advanced, Finished, Started

WHOLE = frozenset({"flash", "verify", "build", "backup"})
"""Tasks that contain all others of their subject, or come last: when one ends, the subject is finished."""

PREPARE = "prepare"
"""The task that contains the others of a node's preparation; "build" may follow, or nothing."""

_SILENCE = 5.0  # seconds without an event after which rate and time left are unknown
_PAUSE = 2.0  # longest pause between two tasks, in seconds: then an unannounced subject is done


class State(StrEnum):
    """The state of a subject."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class Track:
    """One subject. Sizes in bytes, times in seconds of the caller's clock.

    ``size`` is the announced size; ``done`` and ``total`` belong to ``task``, ``before`` is the sum of
    earlier tasks. ``note`` is shown while no task runs.
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
    _whole: bool = False  # a task of WHOLE has started, so its end will be reported
    _rate: float | None = None
    _left: tuple[float, float] | None = None  # when an event gave the time left, and that time
    _heard: float = 0.0
    _task_ended: float | None = None

    def apply(self, event: Started | Advanced | Finished, now: float) -> None:
        """Update the track with an event of its subject."""
        self._heard = now
        self.begun = now if self.begun is None else self.begun
        match event:
            case Started(task, _, total):
                self.ended, self.ok = None, True
                self._whole = self._whole or task in WHOLE
                self._next(task, total)
            case Advanced(task, _, done, total, rate, left):
                if task != self.task:
                    self._next(task, total)
                self.done, self.total, self._rate = done, total, rate
                self._left = None if left is None else (now, left)
            case Finished(task, _, ok):
                self._task_ended = now
                self.ok = self.ok and ok
                if task == PREPARE and ok:
                    self.task, self.total = "prepared", None
                if task in WHOLE or not ok:
                    self.ended = now

    def _next(self, task: str, total: int | None) -> None:
        self.before += self.done
        self.task, self.done, self.total, self._rate = task, 0, total, None
        self._task_ended = None

    def end(self, now: float) -> None:
        """No more events follow: a subject between two tasks is finished."""
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
        """The bytes processed in all tasks."""
        return self.before + self.done

    def elapsed(self, now: float) -> float:
        """Seconds from the first event to the end, or until now."""
        return 0.0 if self.begun is None else (now if self.ended is None else self.ended) - self.begun

    def rate(self, now: float) -> float | None:
        """Bytes per second, from the last event; None between two tasks and when that event is too old."""
        return None if now - self._heard > _SILENCE or self._task_ended is not None else self._rate

    def left(self, now: float) -> float | None:
        """Seconds left, from the last event with an estimate; None when unknown or too old."""
        if now - self._heard > _SILENCE or self._left is None:
            return None
        moment, left = self._left
        return max(0.0, left - (now - moment))


class Tracks:
    """All subjects, in the order in which they were announced or first seen."""

    def __init__(self) -> None:
        self.all: dict[str, Track] = {}
        self._lines: dict[str, str] = {}  # subject to line
        self._at_once = 1  # the largest number of subjects that ran at the same time

    def expect(self, subject: str, total: int, title: str, line: str = "") -> None:
        """Announce a subject of ``total`` bytes. It may take over another ``line``."""
        self._lines[subject] = line or subject
        self.all[line or subject] = Track(subject, title, total)

    def note(self, line: str, title: str, text: str) -> bool:
        """Set the text of ``line``; return whether it changed. An empty text removes the line."""
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
        """Apply an event; return the track of its subject."""
        line = self._lines.get(event.subject, event.subject)
        track = self.all.setdefault(line, Track(event.subject, event.subject))
        track.apply(event, now)
        self._at_once = max(self._at_once, len(self.running(now)))
        return track

    def running(self, now: float) -> list[Track]:
        return [track for track in self.all.values() if track.state(now) is State.RUNNING]

    def unfinished(self, now: float) -> list[Track]:
        """The tracks that are neither done nor failed."""
        return [track for track in self.all.values() if track.state(now) in (State.WAITING, State.RUNNING)]

    def left(self, now: float) -> float | None:
        """Seconds until all are finished; None when unknown.

        The time of the slowest running subject. Waiting subjects start when others finish, and are assumed to
        be as fast as those that ran.
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
        """Seconds per byte of a subject's size: the mean of finished subjects and those with an estimate."""
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
