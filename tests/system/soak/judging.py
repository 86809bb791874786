"""The judge of a soak: what is on a card, by the test's own reading of the file that is the card's medium."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.support.judge import check_file_systems
from tests.system.soak.drawn import FAKE, PULLED, SOUND, Cycle, Span

SIGNATURE = b"\x55\xaa"  # of an MBR, at byte 510
_BLOCK = 4096  # bytes; what a fake's real size is a multiple of

LAST_MOMENT = "pulled when all was on it"


def used_of(block_map: Path) -> list[Span]:
    """What a block map (bmap 2.0) says is in use, joined where it touches."""
    root = ElementTree.parse(block_map).getroot()
    block, size = int(root.findtext("BlockSize", "")), int(root.findtext("ImageSize", ""))
    spans: list[Span] = []
    for element in root.iterfind("BlockMap/Range"):
        first, _, last = (element.text or "").strip().partition("-")
        low, high = int(first) * block, min((int(last or first) + 1) * block, size)
        if spans and spans[-1][1] == low:
            low = spans.pop()[0]
        spans.append((low, high))
    return spans


@dataclass(frozen=True)
class Medium:
    """The file that a card keeps its bytes in, and where a fake really keeps them."""

    file: Path
    fault: Mapping[str, str | int]

    def start(self, count: int) -> bytes:
        """The first bytes of it: what a board reads first."""
        with self.file.open("rb") as stream:
            return stream.read(count)

    def differs(self, image: Path, used: Sequence[Span]) -> int | None:
        """The first byte in use that it does not hold as the image does."""
        with self.file.open("rb") as medium, image.open("rb") as wanted:
            for start, end in used:
                want = os.pread(wanted.fileno(), end - start, start)
                have = b"".join(self._held(medium.fileno(), start, end))
                if have != want:
                    return start + next(
                        (at for at, pair in enumerate(zip(have, want, strict=False)) if pair[0] != pair[1]),
                        min(len(have), len(want)),
                    )
        return None

    def _held(self, handle: int, start: int, end: int) -> Iterator[bytes]:
        wrap, limbo = int(self.fault.get("wrap", 0)), int(self.fault.get("limbo", 0))
        if not wrap and not limbo:
            yield os.pread(handle, end - start, start)
            return
        for at in range(start, end, _BLOCK):
            place = at % wrap if wrap else at
            lost = limbo and place >= limbo
            yield (
                bytes([int(self.fault.get("void", 0))]) * _BLOCK if lost else os.pread(handle, _BLOCK, place)
            )


def judge(
    cycle: Cycle, medium: Medium, before: bytes, report: Mapping[str, Any], used: Sequence[Span], folder: Path
) -> str:
    """Hold the verdict on a card to what is on it; fails when it is wrong. ``before`` is how the card began.

    What is good holds every byte in use, and its file systems are whole. What is not good does not boot: it
    has no partition table, unless it is the one it had before and piimg could write nothing to it. A card
    that was pulled between the last write and the last read-back may hold all of it. Gives the verdict,
    or ``LAST_MOMENT``.
    """
    said = f"{cycle}: {report['verdict']}, {report['error']}"
    image, start = Path(report["image"]), medium.start(512)
    wrong = medium.differs(image, used)
    if report["verdict"] == "good":
        assert wrong is None, f"{said}: byte {wrong} is wrong"
        assert start[510:] == SIGNATURE, said
        assert not cycle.spoils, f"{said}: it never gives back what it holds"
        assert cycle.kind not in SOUND or (report["error"], report["retries"]) == ("", 0), said
        if cycle.kind != FAKE:
            check_file_systems(medium.file, folder)
        return "good"
    assert cycle.kind not in SOUND, f"{said}: another card's fault"
    assert report["verdict"] in ("bad", "failed") and report["error"], said
    if start[510:] == SIGNATURE:
        if cycle.kind == PULLED and wrong is None and report["written"]:
            return LAST_MOMENT
        assert start == before[: len(start)] and not report["written"], f"{said}: it has a partition table"
    return str(report["verdict"])
