"""Good cards that are removed and inserted again, to be read once more.

A volatile cache in a card or reader returns data that is not yet stored on the card. Only after a loss of
power does a read show whether the data was stored.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.write import FlashJob
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import carried

_LEAST = 64 << 20  # bytes; less may fit into any cache, and is too little for a measurement
_FASTER = 1.2  # the least suspect ratio of write rate to read rate; a card writes more slowly than it reads
_LOST = "the written data was lost without power: do not use the card or its reader; or is it another card?"


class Returns:
    """Finds the cards of ``jobs`` that were removed and inserted again; ``waiting`` are the other jobs.

    ``disks`` are the present disks: none of them counts while it stays unchanged.
    """

    def __init__(self, jobs: Sequence[FlashJob], disks: Iterable[Disk]) -> None:
        self.waiting = list(jobs)
        self._stayed = {disk.identity for disk in disks if disk.has_medium}

    def look(self, disks: Iterable[Disk], virtual: bool) -> list[tuple[FlashJob, Disk]]:
        """The jobs whose cards are inserted again, each with its present disk, chosen from ``disks``.

        Before Linux 5.15 a medium has no sequence number; then the slot must be seen empty in between.
        """
        present = {disk.identity: disk for disk in disks if disk.has_medium}
        self._stayed &= present.keys()
        inserted = [present[identity] for identity in present.keys() - self._stayed]
        self._stayed |= present.keys()
        cards = [(disk, carried(disk.node).node) for disk in inserted if not policy.kind(disk, virtual)]
        matches: list[tuple[FlashJob, Disk]] = []
        for find_job in (self._by_slot, self._by_node):
            for disk, node in [card for card in cards if card[0] not in (matched for _, matched in matches)]:
                job = find_job(disk, node)
                if job is not None:
                    self.waiting.remove(job)
                    matches.append((job, disk))
        return matches

    def _by_slot(self, disk: Disk, node: str) -> FlashJob | None:
        """The job whose card was in this slot, unless the disk carries the node of another job that waits."""
        if any(job.target.node == node != "" and job.disk.slot != disk.slot for job in self._fit(disk)):
            return None
        return next((job for job in self._fit(disk) if job.disk.slot == disk.slot), None)

    def _by_node(self, disk: Disk, node: str) -> FlashJob | None:
        """The job of the node that the disk carries, now in another slot."""
        return next((job for job in self._fit(disk) if node and job.target.node == node), None)

    def _fit(self, disk: Disk) -> list[FlashJob]:
        """The waiting jobs that fit the disk: the same size, and the same serial if the card has its own."""
        fit = [job for job in self.waiting if job.disk.size == disk.size]
        return [job for job in fit if not job.disk.sd or job.disk.serial == disk.serial]


def second(first: CardReport, again: CardReport) -> CardReport:
    """The report of a good card that was read ``again``: the figures of ``first`` with the new verdict.

    The first verdict stays when the second reading was interrupted.
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
    """Whether a card accepted writes faster than it reads, which indicates a cache."""
    enough = min(report.written, report.read_back) >= _LEAST
    return enough and report.write_rate > _FASTER * report.read_rate > 0
