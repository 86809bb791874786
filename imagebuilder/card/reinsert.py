"""Cards that are taken out and put in again after they came out good, to be read once more.

What a card or its reader holds in a volatile cache is given back as if it were on the card, until the power
goes. Only then can anybody see that it is lost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.write import FlashJob
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import carried

_LEAST = 64 << 20  # bytes; what is less may be held by any cache, and is too little to measure by
_FASTER = 1.2  # times as fast as it reads; a card writes more slowly than it reads
_LOST = "what was written was lost with the power: do not use it, nor its reader; or is it another card?"


class Returns:
    """Which of the cards of ``jobs`` were taken out and put in again. ``waiting`` are those that were not.

    ``disks`` are those there are now: none of them counts for as long as it stays as it is.
    """

    def __init__(self, jobs: Sequence[FlashJob], disks: Iterable[Disk]) -> None:
        self.waiting = list(jobs)
        self._stayed = {disk.identity for disk in disks if disk.has_medium}

    def look(self, disks: Iterable[Disk], virtual: bool) -> list[tuple[FlashJob, Disk]]:
        """The cards that are in again, of ``disks``, each as it is to be found now.

        Before Linux 5.15 there is no sequence number of the medium; then a card must be seen to be out.
        """
        there = {disk.identity: disk for disk in disks if disk.has_medium}
        self._stayed &= there.keys()
        came = [there[identity] for identity in there.keys() - self._stayed]
        self._stayed |= there.keys()
        cards = [(disk, carried(disk.node).node) for disk in came if not policy.kind(disk, virtual)]
        found: list[tuple[FlashJob, Disk]] = []
        for whose in (self._by_slot, self._by_node):
            for disk, node in [one for one in cards if one[0] not in (taken for _, taken in found)]:
                job = whose(disk, node)
                if job is not None:
                    self.waiting.remove(job)
                    found.append((job, disk))
        return found

    def _by_slot(self, disk: Disk, node: str) -> FlashJob | None:
        """The card that was in this slot. What was on it may be lost, but it is not another's that waits."""
        if any(job.target.node == node != "" and job.disk.slot != disk.slot for job in self._fit(disk)):
            return None
        return next((job for job in self._fit(disk) if job.disk.slot == disk.slot), None)

    def _by_node(self, disk: Disk, node: str) -> FlashJob | None:
        """The card that got the node which this one carries, now in another slot."""
        return next((job for job in self._fit(disk) if node and job.target.node == node), None)

    def _fit(self, disk: Disk) -> list[FlashJob]:
        """The cards that wait and may be this one: of its size, and with its serial where that is its own."""
        fit = [job for job in self.waiting if job.disk.size == disk.size]
        return [job for job in fit if not job.disk.sd or job.disk.serial == disk.serial]


def second(first: CardReport, again: CardReport) -> CardReport:
    """The report of a card that was good and was read ``again``: what was written, and the new verdict.

    Where reading it was interrupted the first verdict stands.
    """
    if again.verdict is Verdict.INTERRUPTED:
        return replace(first, reinserted=False)
    return replace(
        first,
        device=again.device,
        slot=again.slot,
        verdict=again.verdict,
        error=again.error,
        problem=again.problem,
        hint=_LOST if again.verdict is Verdict.BAD else again.hint,
        offset=again.offset,
        partition=again.partition,
        file=again.file,
        reinserted=True,
    )


def may_hold_writes(report: CardReport) -> bool:
    """Whether a card took what was written faster than it gives anything back, as a cache does."""
    enough = min(report.written, report.read_back) >= _LEAST
    return enough and report.write_rate > _FASTER * report.read_rate > 0
