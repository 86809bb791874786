"""Hundreds of cards through one station: `make soak`.

``PIIMG_SOAK`` is how many, ``PIIMG_SEED`` makes them the same as in another run.
"""

import json
import os
import random
import time
from pathlib import Path

import pytest

from tests.integration.card.running import TOP
from tests.system.soak.soaking import GROWTH, soaking

pytestmark = pytest.mark.soak

SLOTS = 24


@pytest.mark.timeout(7200)
def test_hundreds_of_cards_and_nothing_is_held_after(tmp_path: Path) -> None:
    cycles = int(os.environ["PIIMG_SOAK"])
    seed = int(os.environ.get("PIIMG_SEED") or random.randrange(1 << 32))
    print(f"\nPIIMG_SEED={seed}: {cycles} cards in {SLOTS} slots", flush=True)
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {line}", flush=True)

    with soaking(tmp_path, seed, cycles, SLOTS, say, hanging=True) as soak:
        soak.wave(SLOTS)  # each slot is at work once: what is made once is made now
        while (left := cycles - len(soak.outcomes)) > 0:
            soak.wave(min(2 * SLOTS, left))
        soak.end()
    summary = soak.summary(time.monotonic() - begun)
    file = TOP / ".cache" / "soak" / f"{seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary["verdicts"], indent=2), f"\nin {file.relative_to(TOP)}", flush=True)
    warm, last = soak.rests[1], soak.rests[-1]
    grown = last.memory - warm.memory
    assert grown <= GROWTH, f"it grew by {grown / (1 << 20):.1f} MiB from {warm.memory / (1 << 20):.1f} MiB"
