"""`piimg flash --reinsert`: ask the user to reinsert the cards, and read each once more."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from imagebuilder.card.reinsert import Returns, second
from imagebuilder.card.report import CardReport
from imagebuilder.card.write import FlashJob, verify
from imagebuilder.cli.session import Session
from imagebuilder.device.discovery import Disk, find_disks
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message
from imagebuilder.system import blockdev
from imagebuilder.system.threads import wait_for

_EVERY = 0.25  # seconds between two checks: a desktop that mounts the card first would change it

Looked = tuple[Disk, CardReport]
"""The card as it is now, and its report."""


def look_again(
    session: Session,
    written: Sequence[tuple[FlashJob, CardReport]],
    virtual: bool,
    each: Callable[[FlashJob, Disk, CardReport], None],
) -> list[Looked]:
    """Wait until each good card was taken out and put in again, read it, and return all reports.

    They are in the order of ``written``. ``each`` is called with the report of a card that was read again.
    ``session.stop`` ends the waiting; cards that were not read again keep their first verdicts.
    """
    reporter, stop = session.reporter, session.stop
    session.settle()
    well = [] if stop.is_set() else [job for job, report in written if report.done]
    try:
        returns = Returns(well, find_disks(virtual))
    except (
        PiimgError,
        OSError,
    ) as error:  # an unplugged reader must not lose the verdicts
        reporter.emit(Message("warning", f"the cards cannot be looked for again: {error}"))
        well, returns = [], Returns([], [])
    looks: dict[str, tuple[Disk, Future[CardReport]]] = {}
    for job in well:
        text = f"take it out of {job.disk.slot} and put it in again; then it is read once more"
        reporter.emit(Message("info", f"{text} (Ctrl-C to skip this)", str(job.disk.node)))
    with ThreadPoolExecutor(max(len(well), 1), "card") as pool:
        try:
            while returns.waiting and not stop.wait(_EVERY):
                for job, disk in _back(returns, virtual):
                    title = f"{job.target.node} {disk.slot}".strip()
                    where = {"slot": disk.slot, "node": job.target.node}
                    reporter.expect(str(disk.node), job.source.used, title, data=where)
                    again = replace(job, disk=disk)
                    looks[job.disk.number] = disk, pool.submit(verify, again, reporter, stop)
            wait_for([look for _, look in looks.values()])
        except BaseException:
            stop.set()  # otherwise the pool waits until every card is read
            raise
    outcome: list[Looked] = []
    for job, first in written:
        if job.disk.number in looks:
            disk, look = looks[job.disk.number]
            outcome.append((disk, second(first, look.result())))
            each(job, *outcome[-1])
        else:
            outcome.append((job.disk, replace(first, reinserted=False) if first.done else first))
    return outcome


def _back(returns: Returns, virtual: bool) -> list[tuple[FlashJob, Disk]]:
    """The cards that are in again. Errors, such as an unplugged reader, are ignored: the wait goes on."""
    for job in returns.waiting:
        blockdev.notice_medium(job.disk.node)
    try:
        return returns.look(find_disks(virtual), virtual)
    except (PiimgError, OSError):
        return []
