"""Disks, cards and reports for the unit tests of the station: made up, nothing is read."""

from pathlib import Path

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import NOTHING, Carried
from imagebuilder.device.inventory import Candidate
from imagebuilder.device.policy import Refusal
from imagebuilder.station.policy import ExaminedCard, StationRules

CLUSTER = "picluster"
NODES = ("master", "worker1", "worker2")
RULES = StationRules(CLUSTER, NODES)


def disk(slot: str = "usb 1-1", number: int = 0, *, size: int = 32 * 10**9) -> Disk:
    """The disk in a slot; each ``number`` is another card."""
    return Disk(Path("/dev/sdb"), "8:16", size, "usb", slot, removable=True, diskseq=number)


def reader(slot: str = "usb 1-1") -> Disk:
    """The empty reader."""
    return disk(slot, size=0)


def card(
    where: Disk,
    *,
    carried: Carried = NOTHING,
    refusals: tuple[Refusal, ...] = (),
    lost: str = "",
    unfinished: Carried | None = None,
) -> ExaminedCard:
    """A card as it was examined; with no more said, it is empty."""
    return ExaminedCard(Candidate(where, (), carried, refusals), lost, unfinished)


def report(where: Disk, node: str, verdict: Verdict = Verdict.GOOD) -> CardReport:
    """The report of a card that was written."""
    problem = "" if verdict is Verdict.GOOD else "it failed"
    device = str(where.node)
    return CardReport(
        device,
        where.slot,
        "",
        "",
        where.size,
        node,
        f"{node}.img",
        verdict,
        error=problem and f"{where.node}: {problem}",
        problem=problem,
    )
