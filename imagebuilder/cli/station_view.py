"""The output of `piimg station`: a line for each slot, the question, and a line for all."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.cli.flashing import overview
from imagebuilder.cli.format import size
from imagebuilder.cli.keyboard import Keys
from imagebuilder.cli.progress.base import ALL, QUESTION, Renderer
from imagebuilder.cli.verdicts import describe
from imagebuilder.device.discovery import Disk
from imagebuilder.history.warnings import Past, notes_from
from imagebuilder.station.slots import Slot, SlotState
from imagebuilder.station.station import Station

_UNDECIDED = (SlotState.SETTLING, SlotState.EXAMINING, SlotState.ASKING)
_TAKE_OUT = "take it out"
_HERE_BEFORE = "it was here before the station started"
_CUT_OFF = "piimg was interrupted while writing it"
_SUSPECT = "then put it in another slot and run piimg verify: it may have a write cache that loses data"


class StationView:
    """The lines of a station, and the answers to its questions. ``past_of`` gives a card's history."""

    def __init__(
        self, renderer: Renderer, station: Station, keys: Keys, past_of: Callable[[Disk], Past]
    ) -> None:
        self._renderer, self._station, self._slots = renderer, station, station.slots
        self._keys, self._past_of = keys, past_of
        self._asked: Slot | None = None
        self._about: tuple[str, ...] = ()
        self._shown: set[str] = set()

    def show(self, ended: Sequence[CardReport] = ()) -> None:
        """Show what has changed, and the errors of the cards that ended."""
        renderer, slots = self._renderer, self._slots.in_order()
        failed = [report for report in ended if not report.done]
        if failed:
            renderer.say(describe(failed))
        width = max((len(slot.name) for slot in slots), default=0)
        for slot in slots:
            if text := self._text(slot):
                title = f"{slot.name:<{width}} {slot.node}".rstrip()
                renderer.note(slot.name, title, text, self._data(slot))
        names = [slot.name for slot in slots]
        for name in self._shown.difference(names):
            renderer.note(name, name, "")
        self._shown = set(names)
        renderer.note(ALL, "", self._summary(), {"next": self._following or None})
        self._ask()
        renderer.arrange([*names, ALL, QUESTION])

    def end(self) -> None:
        """Show the final state, without a question."""
        self.show()
        self._renderer.note(QUESTION, "", "")

    def read_answer(self) -> None:
        """Read typed keys; without a question they are discarded."""
        line = self._keys.line()
        if self._asked is None:
            self._keys.forget()
        elif line is not None:
            self._answer(self._asked, line.strip())

    def accept_answer(self, ticket: int, answer: str) -> None:
        """An answer from the page. It counts if it is about the card that is asked about now."""
        if self._asked is not None and self._asked.ticket == ticket:
            self._renderer.say(f"{self._asked.name}: answered on the page: {answer.strip()}")
            self._answer(self._asked, answer.strip())

    def _text(self, slot: Slot) -> str:
        """What to do at a slot. Empty while the card is written: then its line shows the progress."""
        match slot.state:
            case SlotState.EMPTY:
                return self._wanted(slot)
            case SlotState.PRESENT:
                cut_off, again = (f", and {_CUT_OFF}", ", then put it in again") if slot.cut_off else ("", "")
                return f"left alone: {_HERE_BEFORE}{cut_off}: {_TAKE_OUT}{again}"
            case SlotState.SETTLING | SlotState.EXAMINING:
                return "examining the card"
            case SlotState.SPARE:
                return "not needed unless another card fails"
            case SlotState.ASKING:
                return f"asking: {slot.why}"
            case SlotState.WAITING:
                return "waiting for its turn"
            case SlotState.WRITING:
                return ""
            case SlotState.REFUSED:
                return f"left alone: {slot.why}: {_TAKE_OUT}"
            case SlotState.DONE:
                text = f"{_verdict(slot)}: {_TAKE_OUT}, and label it {slot.node}"
                suspect = slot.report is not None and slot.report.suspect_cache
                return f"{text}; {_SUSPECT}" if suspect else text
            case SlotState.FAILED:
                return f"{_verdict(slot)}: {_TAKE_OUT}; {slot.why}"

    def _wanted(self, slot: Slot) -> str:
        node = self._slots.rules.slots.get(slot.name, "")
        if node:
            return f"put in a card for {node}" if self._is_wanted(slot) else f"{node} is done"
        return "put in a card" if self._slots.next_node else "no card is needed here"

    def _is_wanted(self, slot: Slot) -> bool:
        """Whether an empty slot is kept for a node that has no card yet."""
        node = self._slots.rules.slots.get(slot.name, "")
        return slot.state is SlotState.EMPTY and node != "" and node not in self._slots.completed

    def _data(self, slot: Slot) -> dict[str, object]:
        """The state of a slot, for programs."""
        why = slot.why
        if slot.state is SlotState.PRESENT:
            why = "" if slot.cut_off else _HERE_BEFORE
        elif slot.state is SlotState.DONE:
            why = _SUSPECT if slot.report is not None and slot.report.suspect_cache else ""
        return {
            "slot": slot.name,
            "state": slot.state.value,
            "node": slot.node or None,
            "device": str(slot.disk.node) if slot.disk is not None else None,
            "verdict": _verdict(slot) if slot.state in (SlotState.DONE, SlotState.FAILED) else None,
            "why": why or None,
            "wanted": self._slots.rules.slots[slot.name] if self._is_wanted(slot) else None,
        }

    @property
    def _following(self) -> str:
        """The node of the next card, where it is known before the card is. It is not while the node of a card
        that is in depends on what is on it, or on an answer.
        """
        if any(slot.state in _UNDECIDED for slot in self._slots.in_order()):
            return ""
        return self._slots.next_node if self._slots.rules.node_from == "next" else ""

    def _summary(self) -> str:
        slots = self._slots
        count = len(slots.rules.nodes)
        then = f", next is {self._following}" if self._following else ""
        return f"{count - len(slots.remaining)} of {count} nodes are done{then} (Ctrl-C to end)"

    def _ask(self) -> None:
        """Show the oldest open question, or remove it."""
        slot, asked = self._slots.question(), self._asked
        if (slot and slot.ticket) != (asked and asked.ticket):
            self._asked = slot
            self._keys.forget()
            if slot is not None:
                self._show_card(slot)
        if slot is None:
            self._renderer.note(QUESTION, "", "")
            return
        asks, hint, answers = self._prompt(slot)
        typed = self._keys.text if self._renderer.moves else ""
        data = {"asks": asks, "answers": answers, "about": self._about, "ticket": slot.ticket}
        self._renderer.note(QUESTION, "", f"{asks} [{hint}] {typed}", data)

    def _show_card(self, slot: Slot) -> None:
        assert slot.examined is not None, "it was examined"
        card = slot.examined.candidate
        lines = [f"{slot.name}: {slot.why}{': a fake?' if _was_bad(slot) else ''}"]
        points = [held.point for held in card.holdings if held.desktop]
        if points:
            lines.append(f"unmounted first: {', '.join(points)}")
        before = self._past_of(card.disk)
        shown = replace(before, bad="" if before.same else before.bad)
        lines += [f"note: {note}" for note in (*card.notes, *notes_from([(card.disk, shown)]))]
        disk = card.disk
        carries = card.carries(self._slots.rules.cluster)
        named = [
            size(disk.size),
            disk.model,
            disk.serial and f"serial {disk.serial}",
            carries and f"carries {carries}",
        ]
        self._about = (", ".join(word for word in named if word), *lines)
        self._renderer.say(overview([(card, slot.node)]))
        for line in lines:
            self._renderer.say(line)

    def _prompt(self, slot: Slot) -> tuple[str, str, list[str]]:
        """The question about a card, what may be typed, and the answers that count."""
        assert slot.disk is not None, "there is something to ask about"
        which = f"{slot.disk.node} ({slot.name})"
        if self._slots.rules.node_from == "ask":
            return f"Erase {which} for which node?", "name, or none", [*self._slots.free_for(slot), "none"]
        asks = f"Erase {which} for {slot.node}?"
        return (asks, "yes in full/N", ["yes"]) if _was_bad(slot) else (asks, "y/N", ["y", "n"])

    def _answer(self, slot: Slot, answer: str) -> None:
        if self._slots.rules.node_from != "ask":
            words = ("yes",) if _was_bad(slot) else ("y", "yes")
            self._station.answer(slot, slot.node if answer.lower() in words else "")
            return
        free = self._slots.free_for(slot)
        if answer in free or answer.lower() in ("", "n", "no", "none"):
            self._station.answer(slot, answer if answer in free else "")
        else:
            self._renderer.say(f"{answer} is not one of {', '.join(free)}")


def _was_bad(slot: Slot) -> bool:
    return slot.examined is not None and bool(slot.examined.bad)


def _verdict(slot: Slot) -> str:
    return str(slot.report.verdict if slot.report else Verdict.FAILED)
