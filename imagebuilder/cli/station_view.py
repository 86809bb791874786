"""What `piimg station` shows: a line a slot that says what to do there, the question, and a line for all."""

from collections.abc import Sequence
from dataclasses import replace

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.cli.flashing import describe, overview
from imagebuilder.cli.history import notes_from, past_of
from imagebuilder.cli.keyboard import Keys
from imagebuilder.cli.session import Session
from imagebuilder.station.policy import Stage
from imagebuilder.station.station import CUT_OFF, HERE_BEFORE, Place, Station

_ALL, _QUESTION = "all", "question"  # lines; no slot is called so
_TAKE_OUT = "take it out"
_SUSPECT = "then put it in elsewhere and run piimg verify: it may hold writes in a cache"


class Board:
    """The lines of a station, and who answers its questions."""

    def __init__(self, session: Session, station: Station, keys: Keys) -> None:
        self._session, self._station, self._keys = session, station, keys
        self._asked: Place | None = None
        self._shown: set[str] = set()

    def show(self, ended: Sequence[CardReport] = ()) -> None:
        """Show what has changed; of the cards that ended, what is to be known."""
        renderer, places = self._session.reporter, self._station.in_order()
        failed = [report for report in ended if not report.done]
        if failed:
            renderer.say(describe(failed))
        width = max((len(place.slot) for place in places), default=0)
        for place in places:
            if text := self._text(place):
                title = f"{place.slot:<{width}} {place.node}".rstrip()
                renderer.note(place.slot, title, text, _data(place))
        for slot in self._shown - {place.slot for place in places}:
            renderer.note(slot, slot, "")
        self._shown = {place.slot for place in places}
        renderer.note(_ALL, "", self._summary())
        self._ask()
        renderer.arrange([*(place.slot for place in places), _ALL, _QUESTION])

    def end(self) -> None:
        """Show how it ended: there are no more questions."""
        self.show()
        self._session.reporter.note(_QUESTION, "", "")

    def hear(self) -> None:
        """Take in what was typed; what answers no question is forgotten."""
        line = self._keys.line()
        if self._asked is None:
            self._keys.forget()
        elif line is not None:
            self._answer(self._asked, line.strip())

    def _text(self, place: Place) -> str:
        """What to do at a slot. Empty while the card is written: then its line says how far that is."""
        match place.stage:
            case Stage.EMPTY:
                return self._wanted(place)
            case Stage.ARRIVED:
                return "looking at the card"
            case Stage.SPARE:
                return "not needed unless another card fails"
            case Stage.ASKING:
                return f"asking: {place.why}"
            case Stage.WRITING:
                waits = place.writing is not None and not place.writing.running()
                return "waits for its turn" if waits else ""
            case Stage.DONE:
                said = f"{_verdict(place)}: {_TAKE_OUT}, and label it {place.node}"
                suspect = place.report is not None and place.report.suspect_cache
                return f"{said}; {_SUSPECT}" if suspect else said
            case Stage.FAILED:
                return f"{_verdict(place)}: {_TAKE_OUT}; {place.why}"
        if place.why.startswith(HERE_BEFORE):
            again = ", then put it in again" if CUT_OFF in place.why else ""
            return f"left alone: {place.why}: {_TAKE_OUT}{again}"
        return f"left alone: {place.why}: {_TAKE_OUT}"

    def _wanted(self, place: Place) -> str:
        node = self._station.rules.slots.get(place.slot, "")
        if node:
            return f"{node} is done" if node in self._station.done else f"put in a card for {node}"
        return "put in a card" if self._station.next_node else "no card is needed here"

    def _summary(self) -> str:
        one = self._station
        done = len(one.rules.nodes) - len(one.remaining)
        following = f", next is {one.next_node}" if one.next_node and one.rules.node_from == "next" else ""
        return f"{done} of {len(one.rules.nodes)} nodes are done{following} (Ctrl-C to end)"

    def _ask(self) -> None:
        """Show the question that waits longest, or that there is none any more."""
        place, renderer = self._station.question(), self._session.reporter
        if place is not self._asked:
            self._asked = place
            self._keys.forget()
            if place is not None:
                self._show_card(place)
        renderer.note(_QUESTION, "", "" if place is None else self._prompt(place))

    def _show_card(self, place: Place) -> None:
        assert place.seen is not None, "it was looked at"
        card, say = place.seen.candidate, self._session.reporter.say
        say(overview([(card, place.node)]))
        say(f"{place.slot}: {place.why}{': a fake?' if _was_bad(place) else ''}")
        points = [held.point for held in card.holdings if held.desktop]
        if points:
            say(f"unmounted first: {', '.join(points)}")
        before = past_of(self._session, card.disk)
        shown = replace(before, bad="" if before.same else before.bad)
        for note in (*card.notes, *notes_from([(card.disk, shown)])):
            say(f"note: {note}")

    def _prompt(self, place: Place) -> str:
        assert place.disk is not None, "there is something to ask about"
        typed = self._keys.text if self._session.reporter.moves else ""
        which = f"{place.disk.node} ({place.slot})"
        if self._station.rules.node_from == "ask":
            return f"Erase {which} for which node? [name, or none] {typed}"
        answers = "yes in full/N" if _was_bad(place) else "y/N"
        return f"Erase {which} for {place.node}? [{answers}] {typed}"

    def _answer(self, place: Place, said: str) -> None:
        if self._station.rules.node_from != "ask":
            words = ("yes",) if _was_bad(place) else ("y", "yes")
            self._station.answer(place, place.node if said.lower() in words else "")
            return
        free = [node for node in self._station.remaining if node not in self._station.at_work - {place.node}]
        if said in free or said.lower() in ("", "n", "no", "none"):
            self._station.answer(place, said if said in free else "")
        else:
            self._session.reporter.say(f"{said} is none of {', '.join(free)}")


def _was_bad(place: Place) -> bool:
    return place.seen is not None and bool(place.seen.bad)


def _data(place: Place) -> dict[str, object]:
    """What a program is told of a slot."""
    device = str(place.disk.node) if place.disk is not None else None
    return {"slot": place.slot, "stage": place.stage.value, "node": place.node or None, "device": device}


def _verdict(place: Place) -> str:
    return str(place.report.verdict if place.report else Verdict.FAILED)
