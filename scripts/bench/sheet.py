"""The scenario of the sheet: how long a page of six nodes with the rates of six cards takes."""

import shutil
import statistics

from bench.context import Bench, check, median
from bench.images import PIIMG, TOP
from bench.measure import run
from imagebuilder.card.report import CardReport, Verdict, save

ROUNDS = 5
MOST = 2.0  # seconds
_POINTS = 240  # rates over time of a card, as many as a report has at most


def sheet(bench: Bench) -> None:
    """`piimg sheet` of six nodes with the report of six cards, as a whole process."""
    folder = bench.work / "sheet"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "build").mkdir(parents=True)
    shutil.copy(TOP / "manifests" / "picluster.toml", folder / "cluster.toml")
    rates = tuple((float(second), "write", 40_000_000 + second) for second in range(1, _POINTS + 1))
    names = ("master", *(f"worker{number}" for number in range(1, 6)))
    cards = [
        CardReport(
            f"/dev/sd{name[-1]}",
            "usb 1-1",
            "Reader",
            "1",
            32 << 30,
            name,
            "",
            Verdict.GOOD,
            seconds=240,
            rates=rates,
        )
        for name in names
    ]
    save(folder / "build" / "flash-report.json", cards)
    took = [check(run([[PIIMG, "sheet"]], bench.log("sheet"), folder=folder), "sheet") for _ in range(ROUNDS)]
    page = (folder / "build" / "sheet.html").stat().st_size
    bench.add("sheet", "piimg sheet, six nodes", median(took), 0)
    now = statistics.median(one.seconds for one in took)
    bench.aim("sheet of six nodes", "s", None, now, MOST, f"{page >> 10} KiB")
    shutil.rmtree(folder)
