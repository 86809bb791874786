"""What the history says of a card before it is used again: it was bad, it failed, it was cut off. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from imagebuilder.card.reinsert import may_hold_writes
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.history.store import Ended, Event, Run, has_own_serial, key_of, plain, shown

_FORGIVEN = 5  # good runs in a reader's slot after which a failure there was likely another card's
_JUDGED = (Verdict.GOOD, Verdict.BAD)
_WHERE = "in this slot of the reader"
_SLOT = f"a card of this size {_WHERE}"


@dataclass(frozen=True)
class Past:
    """What is to be said of a card before it is used again, in words; each is empty when there is nothing.

    ``bad`` says that it was bad: it is written to only when somebody insists, all of it, whatever it holds.
    ``same`` is whether it is surely that card, and not only one that was put into the same slot of a reader.
    """

    bad: str = ""
    failure: str = ""
    interruption: str = ""
    under_way: str = ""
    same: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """All of it."""
        return tuple(text for text in (self.bad, self.failure, self.interruption, self.under_way) if text)


def past(runs: Sequence[Run], disk: Disk) -> Past:
    """What is to be said of the card in ``disk``: when it was bad or failed, and whether it was cut off."""
    own = has_own_serial(disk)
    if not runs:
        return Past(same=own)
    bad, failure = _bad(runs, own), _failure(runs, own)
    who = "this card" if own else _SLOT
    last, when = runs[-1], shown(runs[-1].latest.time)
    if last.under_way:
        return Past(bad, failure, under_way=f"a run on {who} is under way since {when}", same=own)
    cut_off = last.ended is None or last.ended.verdict is Verdict.INTERRUPTED
    return Past(bad, failure, f"a run on {who} was interrupted on {when}" if cut_off else "", same=own)


def loses_writes(events: Sequence[Event], disk: Disk) -> bool:
    """Whether the card in ``disk``, or one in its slot, was good and then bad when it was put in again."""
    key = key_of(disk)
    return any(isinstance(one, Ended) and one.look == "reinserted" and one.key == key for one in events)


def suspected(report: CardReport, events: Sequence[Event], disk: Disk) -> CardReport:
    """The report of a card that was written, saying whether it may hold that in a cache of its own."""
    suspect = report.done and (may_hold_writes(report) or loses_writes(events, disk))
    return replace(report, suspect_cache=suspect)


def notes_from(pasts: Iterable[tuple[Disk, Past]]) -> Iterator[str]:
    """The pasts of cards that are about to be written, in words."""
    for disk, before in pasts:
        if before.bad:
            yield f"{disk.node}: {before.bad}"
        if before.failure:
            yield f"{disk.node}: {before.failure}"
        if before.interruption:
            yield f"{disk.node}: {before.interruption}: nothing on it is trusted, all is compared or written"
        if before.under_way:
            yield f"{disk.node}: {before.under_way}"


def was_good_with(runs: Sequence[Run], node: str, image: str, built: float) -> bool:
    """Whether the card was good the last time it was judged, and got this very node image then.

    ``image`` is the tree digest, ``built`` when the file was made, in seconds since 1970: two builds of the
    same tree have not the same bytes.
    """
    judged = [run for run in runs if run.ended and run.ended.verdict in _JUDGED]
    last = judged[-1] if judged else Run()
    if last.begun is None or last.ended is None or last.ended.verdict is Verdict.BAD:
        return False
    begun = datetime.fromisoformat(last.begun.time).timestamp()
    return (last.begun.node, last.begun.image) == (node, image) and begun > built


def _judged_bad(runs: Sequence[Run], own: bool) -> list[Ended]:
    """The times that the card was bad; none when good cards were in the slot of a reader since.

    A card that is known by its own serial stays bad: if it was wrong once, it may be wrong unseen the next
    time. Of a slot only the last card that was read back counts: after a good one it is likely another card.
    """
    ends = [run.ended for run in runs if run.ended and run.ended.verdict in _JUDGED]
    if not own and ends and ends[-1].verdict is Verdict.GOOD:
        return []
    return [one for one in ends if one.verdict is Verdict.BAD]


def _bad(runs: Sequence[Run], own: bool) -> str:
    bad = _judged_bad(runs, own)
    who = "this card" if own else f"the last card read back of this size {_WHERE}"
    return _said(bad, who, "was bad") if bad else ""


def _failure(runs: Sequence[Run], own: bool) -> str:
    """When it failed; of a slot also when a card was bad there, unless enough good ones were since."""
    kinds = (Verdict.FAILED,) if own or _judged_bad(runs, own) else (Verdict.FAILED, Verdict.BAD)
    verdicts = [run.ended.verdict if run.ended else None for run in runs]
    failed = [run.ended for run in runs if run.ended and run.ended.verdict in kinds]
    if not failed:
        return ""
    last = max(at for at, one in enumerate(verdicts) if one in kinds)
    since = verdicts[last:].count(Verdict.GOOD)
    if not own and since >= _FORGIVEN:
        return ""
    what = "failed" if verdicts[last] is Verdict.FAILED else "was bad"
    said = _said(failed, "this card" if own else _SLOT, what)
    if not since or _judged_bad(runs, own):
        return said  # that it was good since says nothing of a card that was bad
    if own:
        return f"{said}; good since{f', {since} times' if since > 1 else ''}"
    return f"{said}; {since} good {'runs' if since > 1 else 'run'} there since"


def _said(ends: Sequence[Ended], who: str, what: str) -> str:
    """That ``ends`` came about, with the time and the place of the last."""
    last = ends[-1]
    place = f" at byte {last.offset}" if last.offset is not None else f": {plain(last.error)}"
    often = f" ({len(ends)} times in all)" if len(ends) > 1 else ""
    return f"{who} {what} on {shown(last.time)}{place}{often}"
