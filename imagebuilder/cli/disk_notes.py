"""Notes for the question: disks that share a USB link, and disks that this user may not open."""

import os
from collections.abc import Iterator, Sequence

from imagebuilder.cli.format import duration, size
from imagebuilder.device import usb
from imagebuilder.device.discovery import Disk
from imagebuilder.device.inventory import Candidate


def link_notes(cards: Sequence[tuple[Disk, int]], verify: bool, jobs: int | None) -> Iterator[str]:
    """Cards that share a USB 2 link, with the estimated time; nothing when ``jobs`` is 1.

    ``cards`` has each disk with the bytes to be written; with ``verify`` they are also read over the link.
    """
    if jobs == 1:
        return
    body = {disk.number: count for disk, count in cards}
    for shared in usb.shared_links([disk for disk, _ in cards]):
        count = sum(body[disk.number] for disk in shared.disks) * (2 if verify else 1)
        best, worst = (duration(seconds) for seconds in usb.seconds_through(count))
        slow, fast = (rate // 10**6 for rate in usb.CARRIES)
        devices = ", ".join(str(disk.node) for disk in shared.disks)
        yield (
            f"{devices} share {shared.what}, which carries {slow} to {fast} MB/s in all:"
            f" {size(count)} take about {best} to {worst} there"
        )


def rights_notes(disks: Sequence[Disk]) -> Iterator[str]:
    """Cards that this user may not open: udisks2 may then ask for a password in a window."""
    for disk in disks:
        if not os.access(disk.node, os.R_OK | os.W_OK):
            yield f"{disk.node} is opened by udisks2, which may ask for your password"


def each_card(cards: Sequence[tuple[Candidate, str]], cluster: str) -> list[str]:
    """A line for each card and what it gets, for the page: the table is too wide for a phone."""
    lines = []
    for card, gets in cards:
        carries = card.carries(cluster)
        facts = (size(card.disk.size), card.disk.model, carries and f"carries {carries}")
        lines.append(f"{card.disk.slot}, for {gets}: {', '.join(filter(None, facts))}")
    return lines
