"""The state of the page, folded from what a run reports: the same calls that a terminal gets."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from imagebuilder.card.report import CardReport
from imagebuilder.cli.format import duration, size
from imagebuilder.cli.progress.base import ALL, QUESTION
from imagebuilder.cli.progress.tracks import State, Track, Tracks
from imagebuilder.cli.verdicts import advice
from imagebuilder.cli.web.instructions import actions
from imagebuilder.cli.web.state import HistoryRow, NodeState, Question, Shown, Start, Tile, Work
from imagebuilder.device.discovery import natural_order
from imagebuilder.events import Advanced, Event, Finished, Message, Started
from imagebuilder.history.store import now as time_now
from imagebuilder.history.store import shown as shown_time

_MESSAGES = 12  # that are kept
_HISTORY = 30  # runs that are shown
_POINTS = 60  # rates over time that are kept of a card
_BUSY = frozenset({"settling", "examining", "waiting", "writing", "asking"})


class Page:
    """The state of the page. Safe from any thread, and in a signal handler.

    ``changed`` becomes True when the page should be shown soon. It is a plain flag: an Event has a lock, for
    which a signal handler could wait forever.
    """

    def __init__(self, start: Start, clock: Callable[[], float] = time.monotonic) -> None:
        self.changed = True
        self._start, self._clock = start, clock
        self._lock = threading.RLock()  # signal handlers emit messages
        self._tracks = Tracks()
        self._lines: dict[str, str] = {}  # subject to line
        self._places: dict[str, Tile] = {}  # by line; ``text`` replaces its progress
        self._rates: dict[str, deque[tuple[float, float]]] = {}
        self._messages: deque[str] = deque(maxlen=_MESSAGES)
        self._history: deque[HistoryRow] = deque(start.history, maxlen=_HISTORY)
        self._done = dict(start.done)
        self._question: Question | None = None
        self._wanted: tuple[str, ...] = ()
        self._next = ""
        self._goals: tuple[str, ...] = ()
        self._stopping = self._ended = False

    def emit(self, event: Event) -> None:
        """Take in an event."""
        with self._lock:
            if isinstance(event, Message):
                self._message(event)
                return
            track, now = self._tracks.apply(event, self._clock()), self._clock()
            if isinstance(event, Advanced):
                self._sample(self._lines.get(event.subject, event.subject), now, event.rate)
            elif isinstance(event, Finished) and track.size is None and track.ended is not None and event.ok:
                self._tracks.all.pop(event.subject, None)  # a node that is prepared
        if isinstance(event, Started | Finished):
            self.changed = True

    def goals(self, nodes: Sequence[str], done: Mapping[str, str] | None = None) -> None:
        """The nodes that this run is to write, and those that have their card, with when and where."""
        with self._lock:
            self._goals = tuple(nodes)
            self._done.update(done or {})
        self.changed = True

    def expect(self, subject: str, total: int, title: str, line: str, data: Mapping[str, object]) -> None:
        """A card is about to be written; see Renderer.expect."""
        key = line or subject
        with self._lock:
            self._tracks.expect(subject, total, title, line)
            self._lines[subject] = key
            slot, node = str(data.get("slot") or title), str(data.get("node") or "")
            self._places[key] = Tile(slot, "writing", node, subject)
            self._rates.pop(key, None)
            self._wanted = ()
        self.changed = True

    def note(self, line: str, title: str, text: str, data: Mapping[str, object]) -> None:
        """A line that only says something; see Renderer.note."""
        with self._lock:
            if line == QUESTION:
                question = _question(text, data, self._start.control) if text else None
                changed, self._question = question != self._question, question
            elif line == ALL:
                following = str(data.get("next") or "")
                changed, self._next = following != self._next, following
            else:
                changed = self._tracks.note(line, title, text)
                if not text:
                    self._places.pop(line, None)
                elif changed:
                    self._places[line] = _tile(text, data)
        if changed:
            self.changed = True

    def judged(self, report: CardReport, text: str) -> None:
        """A card has its verdict; ``text`` says what to do with it."""
        with self._lock:
            line = self._lines.get(report.device, report.device)
            place = self._places.get(line)
            state = "done" if report.done else "failed"
            if place is not None:
                # A card that is done needs no more words than these, unless there is more to do with it.
                more = "" if text == advice(report) and not report.suspect_cache else text
                why = more if report.done else report.problem
                verdict = str(report.verdict)
                self._places[line] = replace(place, state=state, text=text, verdict=verdict, why=why)
            if report.done and report.node:
                self._done[report.node] = f"{shown_time(time_now())}, in slot {report.slot}"
            else:
                self._done.pop(report.node, None)
            if not report.done:  # a card that was pulled is in no slot any more
                node = f"{report.node}: " if report.node else ""
                self._messages.append(f"{report.slot}: {node}{report.verdict}: {report.problem}")
            self._history.appendleft(_row(report))
        self.changed = True

    def wants(self, nodes: Sequence[str]) -> None:
        """More cards are needed for ``nodes``."""
        with self._lock:
            self._wanted = tuple(nodes)
        self.changed = True

    def asks(self, text: str, about: Sequence[str] = ()) -> None:
        """A question is open at the terminal; empty: it was answered. ``about`` has a line for each card."""
        with self._lock:
            self._question = Question(text, tuple(about)) if text else None
        self.changed = True

    def settled(self) -> None:
        """What is not about a card is over: a question may be next."""
        with self._lock:
            for line in [name for name in self._tracks.all if name not in self._places]:
                del self._tracks.all[line]

    def stopping(self) -> None:
        """The user asked to stop."""
        self._stopping = True

    def end(self) -> None:
        """The run is over."""
        with self._lock:
            self._ended, self._question = True, None
        self.changed = True

    def shown(self) -> Shown:
        """What the page shows now."""
        with self._lock:
            now = self._clock()
            tiles = tuple(self._tile(line, track, now) for line, track in self._in_order())
            running = [
                track for line, track in self._tracks.all.items()
                if line in self._places and track.state(now) is State.RUNNING
            ]  # fmt: skip
            rates = [rate for track in running if (rate := track.rate(now)) is not None]
            lefts = [track.left(now) for track in running]
            known = [left for left in lefts if left is not None]
            left = duration(max(known)) if known and len(known) == len(lefts) else ""
            goals = self._goals
            shown = Shown(
                self._start.run,
                self._start.command,
                self._start.cluster,
                question=self._question,
                done=sum(node in self._done for node in goals),
                count=len(goals),
                percent=self._percent(now),
                busy=len(running),
                rate=f"{size(int(sum(rates)))}/s" if rates else "",
                left=left,
                tiles=tiles,
                work=tuple(self._works(now)),
                nodes=tuple(self._node(row, tiles) for row in self._start.nodes),
                history=tuple(self._history),
                messages=tuple(reversed(self._messages)),
                ended=self._ended,
            )
            done = actions(shown, self._next, self._wanted, self._stopping)
        return replace(shown, actions=done)

    def _percent(self, now: float) -> int:
        """How much of all nodes is done, by bytes; 100 only when the last one has its card."""
        share = {node: 1.0 for node in self._goals if node in self._done}
        for line, track in self._tracks.all.items():
            node = self._places[line].node if line in self._places else ""
            if node in self._goals and node not in share and track.size and track.state(now) is State.RUNNING:
                share[node] = min(track.moved / (2 * track.size), 0.99)  # written, and read back
        return int(100 * sum(share.values()) / len(self._goals)) if self._goals else 0

    def _in_order(self) -> list[tuple[str, Track]]:
        places = [(line, track) for line, track in self._tracks.all.items() if line in self._places]
        return sorted(places, key=lambda pair: natural_order(self._places[pair[0]].slot))

    def _tile(self, line: str, track: Track, now: float) -> Tile:
        place = self._places[line]
        tile = replace(place, rates=self._shape(line))
        if place.text:
            return tile
        state = track.state(now)
        if state is State.WAITING:
            return replace(tile, state="waiting", text="waiting for its turn")
        if state is not State.RUNNING:  # a verdict follows: until then nothing is said of the card
            return replace(tile, task="finishing", percent=100)
        rate, left = track.rate(now), track.left(now)
        return replace(
            tile,
            task=track.task,
            percent=min(100, 100 * track.done // track.total) if track.total else None,
            rate="" if rate is None else f"{size(int(rate))}/s",
            left="" if left is None else duration(left),
        )

    def _works(self, now: float) -> list[Work]:
        found = []
        for line, track in self._tracks.all.items():
            if line not in self._places and track.state(now) is State.RUNNING:
                percent = min(100, 100 * track.done // track.total) if track.total else None
                left = track.left(now)
                found.append(Work(track.title, track.task, percent, "" if left is None else duration(left)))
        return found

    def _node(self, row: NodeState, tiles: Sequence[Tile]) -> NodeState:
        if row.name in self._done:
            return replace(row, kind="done", state=f"has its card: {self._done[row.name]}")
        at = next((tile for tile in tiles if tile.node == row.name and tile.state in _BUSY), None)
        if at is not None:
            return replace(row, kind="busy", state=f"in {at.slot}")
        return row if row.name in self._goals else replace(row, state="not in this run")

    def _message(self, message: Message) -> None:
        if "logger" in message.data:
            return
        line = self._lines.get(message.subject, message.subject)
        if line in self._places and message.level == "info":
            self._places[line] = replace(self._places[line], text=message.text)
        else:
            subject = f"{message.subject}: " if message.subject else ""
            self._messages.append(f"{subject}{message.text}")
        self.changed = True

    def _sample(self, line: str, now: float, rate: float | None) -> None:
        points = self._rates.setdefault(line, deque(maxlen=_POINTS))
        if rate is not None and (not points or now - points[-1][0] >= 1.0):
            points.append((now, rate))

    def _shape(self, line: str) -> tuple[int, ...]:
        rates = [rate for _, rate in self._rates.get(line, ())]
        top = max(rates, default=0.0)
        return tuple(round(100 * rate / top) for rate in rates) if top > 0 else ()


def _tile(text: str, data: Mapping[str, object]) -> Tile:
    """A slot of a station, from its note."""

    def said(name: str) -> str:
        return str(data.get(name) or "")

    place = Tile(said("slot"), said("state"), said("node"), said("device"), text)
    return replace(place, verdict=said("verdict"), why=said("why"), wanted=said("wanted"))


def _question(text: str, data: Mapping[str, object], control: bool) -> Question:
    """The question of a station, from its note."""
    about, answers, ticket = data.get("about"), data.get("answers"), data.get("ticket")
    return Question(
        str(data.get("asks") or text),
        tuple(map(str, about)) if isinstance(about, (list, tuple)) else (),
        tuple(map(str, answers)) if control and isinstance(answers, (list, tuple)) else (),
        ticket if isinstance(ticket, int) else 0,
    )


def _row(report: CardReport) -> HistoryRow:
    return HistoryRow(
        shown_time(time_now()),
        report.node,
        f"{report.slot}, {size(report.size)}",
        report.verdict.value,
        duration(report.seconds),
        report.problem,
    )
