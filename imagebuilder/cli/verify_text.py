"""What `piimg verify` found, as text and as data."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from imagebuilder.card.report import document
from imagebuilder.cli.card_comparison import Outcome
from imagebuilder.cli.tables import table
from imagebuilder.cli.verdicts import describe
from imagebuilder.image.drift import Comparison
from imagebuilder.image.firstboot import Change


def document_of(outcome: Outcome) -> dict[str, object]:
    """The report as data: that of flash, and ``state`` when the card should carry a node."""
    whole = document([outcome.report] if outcome.report else [])
    return whole if outcome.state is None else whole | {"state": _state(outcome)}


def document_of_all(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The report of all cards as data, with the ``states`` of the cards."""
    reports = [outcome.report for outcome in outcomes if outcome.report]
    states = [_state(outcome) for outcome in outcomes if outcome.state or outcome.refused]
    return document(reports) | {"states": states}


def _state(outcome: Outcome) -> dict[str, object]:
    state: dict[str, object] = {"device": str(outcome.disk.node), "node": outcome.node}
    if outcome.state:
        state |= asdict(outcome.state)
    if outcome.comparison:
        state |= asdict(outcome.comparison)
    if outcome.older:
        state["older"] = {
            "changes": [change.text for change in outcome.older.changes],
            "undamaged": outcome.older.undamaged,
        }
    if outcome.refused:
        state["refused"] = outcome.refused.message
    return state | {"advice": outcome.advice} if outcome.advice else state


def text_of(outcome: Outcome) -> str:
    """The result for one card."""
    lines = []
    if outcome.state:
        carries = f" {outcome.node}," if outcome.node else ""
        lines.append(f"{outcome.disk.node}:{carries} {outcome.state.state}")
        lines += [f"  {text}" for text in outcome.state.evidence]
        lines += [f"  note: {text}" for text in outcome.state.notes]
    if outcome.report:
        lines.append(describe([outcome.report]))
    if outcome.comparison:
        lines += _drift(outcome.comparison)
        lines += [outcome.older.text] if outcome.older else []
    lines += [f"    {outcome.advice}"] if outcome.advice else []
    return "\n".join(lines)


def text_of_all(outcomes: Sequence[Outcome]) -> str:
    """The results for several cards: a table, and below it what is wrong and what to do."""
    heads = ("DEVICE", "SLOT", "NODE", "STATE", "RESULT")
    return "\n".join([table(heads, [_row(outcome) for outcome in outcomes]), *_below(outcomes)])


def _row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.report:
        result = outcome.report.verdict.value
    elif outcome.comparison:
        result = "drift" if outcome.comparison.drift else "no drift"
    else:
        result = "not read" if outcome.refused else "-"
    state = outcome.state.state.value if outcome.state else ""
    return (str(outcome.disk.node), outcome.disk.slot, outcome.node, state, result)


def _below(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        device, report = outcome.disk.node, outcome.report
        if outcome.refused:
            yield f"{device}: {outcome.refused.message}\n    {outcome.refused.hint}".rstrip()
        if report and report.error:
            yield f"{device}: {report.problem}" + (f"\n    {report.hint}" if report.hint else "")
        elif outcome.state and not report and not outcome.comparison:
            yield f"{device}: {'; '.join(outcome.state.evidence)}"
        if outcome.comparison and outcome.comparison.drift:
            yield from (f"{device}: {line}" for line in _drift(outcome.comparison)[-1:])
            yield f"    all of it: sudo piimg verify {device}"
        if outcome.older and not report:
            yield f"{device}: {outcome.older.text}"
        if outcome.advice:
            yield f"    {outcome.advice}"


def _drift(found: Comparison) -> list[str]:
    count = f"{found.compared} entries of the overlay"
    if not found.compared and not found.drift:
        return ["nothing was compared: the record of the node image has no entries of an overlay"]
    if not found.compared:
        return [f"nothing could be compared: {change.found}" for change in found.drift]
    moved = [
        f"{change.partition}{change.path}: {change.reason}"
        for change in found.expected_changes
        if change.change is Change.STORED
    ]
    if not found.drift:
        return [
            *moved,
            f"no drift: {count} are unchanged; the rest of the card was not compared",
        ]
    heads = ("PATH", "LAYER", "CHANGED", "SHOULD BE", "IS")
    rows = [
        (f"{change.partition}{change.path}", change.layer, change.what, change.wanted, change.found)
        for change in found.drift
    ]
    return [*moved, table(heads, rows), f"drift in {len({row[0] for row in rows})} of {count}"]
