"""The table of verdicts that the commands print after cards were written or read."""

from collections.abc import Sequence

from imagebuilder.card.report import CardReport
from imagebuilder.cli.format import duration, size
from imagebuilder.cli.tables import table

SUSPECT = (
    "the card or its reader may have a write cache that loses data without power:"
    " take it out, put it in again, and run piimg verify"
)


def describe(done: Sequence[CardReport]) -> str:
    """The report as a table, with errors and their places below it."""
    kept = any(card.skipped for card in done)  # shown in place of READ BACK
    heads = ("DEVICE", "NODE", "WRITTEN", "KEPT" if kept else "READ BACK", "TIME", "WRITE", "READ", "VERDICT")
    lines = [table(heads, [_row(card, kept) for card in done])]
    same: dict[str, list[str]] = {}  # a message for several cards, such as Ctrl-C, is printed once
    for card in done:
        if card.error:
            text = f"{card.problem}{_place(card)}" + (f"\n    {card.hint}" if card.hint else "")
            same.setdefault(text, []).append(card.device)
        elif card.retries:
            text = f"needed {card.retries} retries, and is right now"
            same.setdefault(text, []).append(card.device)
        if card.suspect_cache and not card.reinserted:
            same.setdefault(SUSPECT, []).append(card.device)
    lines += [f"{', '.join(devices)}: {text}" for text, devices in same.items()]
    return "\n".join(lines)


def advice(card: CardReport, reinsert: bool = False) -> str:
    """What to do with a card that was written; ``reinsert``: it is read again after it was put in again."""
    if not card.done:
        return f"{card.verdict}: {card.problem}"
    if reinsert:
        return f"{card.verdict}: take it out, and put it in again"
    label = f", and label it {card.node}" if card.node else ""
    return f"{card.verdict}: take it out{label}" + (f"; {SUSPECT}" if card.suspect_cache else "")


def _place(card: CardReport) -> str:
    if card.partition is None:
        return ""
    return f" (partition {card.partition}{', ' if card.file else ''}{card.file})"


def _row(card: CardReport, kept: bool) -> tuple[str, ...]:
    rates = [f"{size(int(rate))}/s" if rate else "" for rate in (card.write_rate, card.read_rate)]
    counted = (card.written, card.skipped if kept else card.read_back)
    counts = [size(count) if count else "" for count in counted]
    time = duration(card.seconds)
    return (card.device, card.node, *counts, time, *rates, card.verdict.value)
