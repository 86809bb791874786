"""Flash several cards at once, each on its own thread. A failure of one does not affect the others."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from imagebuilder.card.contents import Contents
from imagebuilder.card.report import CardReport
from imagebuilder.card.shared import SharedPieces
from imagebuilder.card.write import FlashJob, flash
from imagebuilder.errors import UsageError
from imagebuilder.events import Reporter
from imagebuilder.system.threads import wait_for


def run(
    jobs: Sequence[FlashJob],
    reporter: Reporter,
    stop: threading.Event,
    limit: int | None = None,
    each: Callable[[CardReport], None] | None = None,
) -> list[CardReport]:
    """Flash all ``jobs``, at most ``limit`` at once (None: all), and return the reports in the same order.

    ``stop`` ends every job after its current piece. ``each`` is called with a report as soon as its job has
    ended, on the thread of that job. Raises UsageError when two jobs name the same card.
    """

    contents, shared = Contents(), SharedPieces() if len(jobs) > 1 else SharedPieces(0)

    def flash_job(job: FlashJob) -> CardReport:
        report = flash(replace(job, contents=contents, shared=shared), reporter, stop)
        if each is not None:
            each(report)
        return report

    _check_distinct(jobs)
    with ThreadPoolExecutor(limit or max(len(jobs), 1), "card") as pool:
        try:
            futures = [pool.submit(flash_job, job) for job in jobs]
            wait_for(futures)
        except BaseException:
            stop.set()  # else leaving the pool would wait until all jobs are complete
            raise
    return [future.result() for future in futures]


def _check_distinct(jobs: Sequence[FlashJob]) -> None:
    seen: set[str] = set()
    for job in jobs:
        if job.disk.number in seen:
            raise UsageError(f"{job.disk.node} was named twice", "name each card once")
        seen.add(job.disk.number)
