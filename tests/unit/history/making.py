"""Recorded disks, and runs on them, for tests of the history."""

import json
from dataclasses import replace

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk, disk_from
from imagebuilder.history.store import (
    Event,
    begun,
    ended,
)
from tests.support.checkout import DEVICES

WHEN = "2025-11-24T13:03:00+00:00"


def recorded(name: str) -> Disk:
    record = json.loads((DEVICES / f"{name}.json").read_text())
    return disk_from(record["properties"], record["attributes"])


READER, SLOT = recorded("usb-reader"), recorded("laptop-slot")


def report_of(disk: Disk, verdict: Verdict, error: str = "", offset: int | None = None) -> CardReport:
    named = (str(disk.node), disk.slot, disk.model, disk.serial)
    found = CardReport(*named, disk.size, "worker1", "worker1.img", verdict, error=error, offset=offset)
    return replace(found, problem=error)


def run_on(disk: Disk, name: str, verdict: Verdict | None, offset: int | None = None) -> list[Event]:
    """The events of one run; without a verdict it was cut off."""
    start = replace(begun(disk, name, "worker1", "0" * 64), time=WHEN, owner="")
    if verdict is None:
        return [start]
    return [start, replace(ended(start, report_of(disk, verdict, "it does not", offset)), time=WHEN)]
