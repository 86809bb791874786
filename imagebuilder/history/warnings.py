"""Warnings from the history before a card is used again: it was bad, failed, or interrupted. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from imagebuilder.card.reinsert import may_hold_writes
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.history.store import Ended, Event, Run, has_own_serial, key_of, plain, shown

_FORGIVEN = 5  # good runs in a slot of a reader, after which a failure there was likely of another card
_JUDGED = (Verdict.GOOD, Verdict.BAD)
_WHERE = "in this slot of the reader"
_SLOT = f"a card of this size {_WHERE}"


@dataclass(frozen=True)
class Past:
    """The warnings about a card before it is used again, in words; each is empty when it does not apply.

    ``bad``: the card was bad. It is written only when the user insists, and then completely, whatever it
    contains. ``same``: it is certainly that card, and not only a card in the same slot of a reader.
    """

    bad: str = ""
    failure: str = ""
    interruption: str = ""
    under_way: str = ""
    same: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings."""
        return tuple(text for text in (self.bad, self.failure, self.interruption, self.under_way) if text)


def past(runs: Sequence[Run], disk: Disk) -> Past:
    """The warnings about the card in ``disk``: when it was bad or failed, and whether it was interrupted."""
    own = has_own_serial(disk)
    if not runs:
        return Past(same=own)
    bad, failure = _bad(runs, own), _failure(runs, own)
    card = "this card" if own else _SLOT
    last, when = runs[-1], shown(runs[-1].latest.time)
    if last.under_way:
        return Past(bad, failure, under_way=f"a run on {card} has been running since {when}", same=own)
    interrupted = last.ended is None or last.ended.verdict is Verdict.INTERRUPTED
    return Past(bad, failure, f"a run on {card} was interrupted on {when}" if interrupted else "", same=own)


def loses_writes(events: Sequence[Event], disk: Disk) -> bool:
    """Whether the card in ``disk``, or one in its slot, was good and then bad after it was reinserted."""
    key = key_of(disk)
    return any(
        isinstance(event, Ended) and event.look == "reinserted" and event.key == key for event in events
    )


def suspected(report: CardReport, events: Sequence[Event], disk: Disk) -> CardReport:
    """The report of a written card with ``suspect_cache`` set: whether a volatile cache may have the data."""
    suspect = report.done and (may_hold_writes(report) or loses_writes(events, disk))
    return replace(report, suspect_cache=suspect)


def notes_from(pasts: Iterable[tuple[Disk, Past]]) -> Iterator[str]:
    """The warnings about cards that are about to be written, each with its device."""
    for disk, before in pasts:
        if before.bad:
            yield f"{disk.node}: {before.bad}"
        if before.failure:
            yield f"{disk.node}: {before.failure}"
        if before.interruption:
            yield f"{disk.node}: {before.interruption}: all of its data is compared or written again"
        if before.under_way:
            yield f"{disk.node}: {before.under_way}"


def was_good_with(runs: Sequence[Run], node: str, image: str, built: float) -> bool:
    """Whether the last good or bad verdict on the card was good, with this same node image.

    ``image`` is the tree digest, ``built`` the time of the image file in seconds since 1970: two builds of
    the same tree do not have the same bytes.
    """
    judged = [run for run in runs if run.ended and run.ended.verdict in _JUDGED]
    last = judged[-1] if judged else Run()
    if last.begun is None or last.ended is None or last.ended.verdict is Verdict.BAD:
        return False
    begun = datetime.fromisoformat(last.begun.time).timestamp()
    return (last.begun.node, last.begun.image) == (node, image) and begun > built


def _bad_ends(runs: Sequence[Run], own: bool) -> list[Ended]:
    """The bad verdicts on the card; none when the last verdict in a slot of a reader was good.

    A card with its own serial stays bad: if it was wrong once, it may be wrong undetected the next time. In a
    slot only the last card that was read back counts: after a good one it is likely another card.
    """
    ends = [run.ended for run in runs if run.ended and run.ended.verdict in _JUDGED]
    if not own and ends and ends[-1].verdict is Verdict.GOOD:
        return []
    return [end for end in ends if end.verdict is Verdict.BAD]


def _bad(runs: Sequence[Run], own: bool) -> str:
    bad = _bad_ends(runs, own)
    card = "this card" if own else f"the last card read back of this size {_WHERE}"
    return _in_words(bad, card, "was bad") if bad else ""


def _failure(runs: Sequence[Run], own: bool) -> str:
    """When it failed; for a slot also when a card was bad there, unless enough good runs followed."""
    kinds = (Verdict.FAILED,) if own or _bad_ends(runs, own) else (Verdict.FAILED, Verdict.BAD)
    verdicts = [run.ended.verdict if run.ended else None for run in runs]
    failed = [run.ended for run in runs if run.ended and run.ended.verdict in kinds]
    if not failed:
        return ""
    last = max(index for index, verdict in enumerate(verdicts) if verdict in kinds)
    since = verdicts[last:].count(Verdict.GOOD)
    if not own and since >= _FORGIVEN:
        return ""
    outcome = "failed" if verdicts[last] is Verdict.FAILED else "was bad"
    text = _in_words(failed, "this card" if own else _SLOT, outcome)
    if not since or _bad_ends(runs, own):
        return text  # later good runs do not clear a card that was bad
    if own:
        return f"{text}; good since{f', {since} times' if since > 1 else ''}"
    return f"{text}; {since} good {'runs' if since > 1 else 'run'} there since"


def _in_words(ends: Sequence[Ended], card: str, outcome: str) -> str:
    """The text for ``ends``, with their number, and the time and the place of the last."""
    last = ends[-1]
    place = f" at byte {last.offset}" if last.offset is not None else f": {plain(last.error)}"
    often = f" ({len(ends)} times in all)" if len(ends) > 1 else ""
    return f"{card} {outcome} on {shown(last.time)}{place}{often}"
