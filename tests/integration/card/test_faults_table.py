"""docs/faults.md is what the fault tests of this very run found; ``make faults`` writes it."""

import os
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.integration.card import (
    test_faults,
    test_faults_elsewhere,
    test_faults_fake,
    test_faults_host,
    test_faults_silence,
)
from tests.integration.card.faults import ROWS
from tests.integration.card.rig import require
from tests.integration.card.running import TOP

pytestmark = pytest.mark.long

DOCUMENT = TOP / "docs" / "faults.md"
MODULES = (test_faults, test_faults_elsewhere, test_faults_fake, test_faults_silence, test_faults_host)
COLUMNS = {
    test_faults.HEADING: ("what the card does", "how often", "verdict", "reported where", "tried again"),
    test_faults_fake.HEADING: ("card", "verdict", "reported", "f3probe says"),
    test_faults_silence.HEADING: ("what the card does", "verdict", "reported"),
    test_faults_host.HEADING: ("what happens", "verdict", "reported"),
}
OPENING = """\
# Faults, and what piimg says of each

This page is made by the tests in `tests/integration/card/test_faults*.py`: `make faults` writes it, and
`make test-long` fails when it is not what came out. Every row of the first three tables is a real loop
device with the fault beneath it (nbdkit, `tests/integration/card/faulty.py`), flashed beside a sound card.
In every row these hold too, or the test fails:

- the sound card comes out good, and holds the image;
- the faulty card has a partition table afterwards only if its verdict is good;
- `bmaptool copy --bmap NODE.bmap DEVICE /dev/null` finds it right if, and only if, its verdict is good;
- no loop device is left, and nothing hangs.

*good*: every byte in use was read from the card after the writing and found right. *bad*: the card does not
give back what it was given. *failed*: it could not be written to, or does not answer. "Tried again" counts
how often a piece was written or read once more.

Three things cannot be known in one go. What a card or its reader keeps in a cache of its own comes back
from there: a card that swallows is called good as long as all that went beyond its real end is still in its
cache (a node image is larger than that; `piimg cards --test DEVICE` writes all of the card), and one that
forgets its cache when the power goes is found with `--reinsert`, or by `piimg verify` later. A fake that
wraps round at no power of two is found only where the image reaches. The write of the partition table may
spoil a place more than 4 MiB away: `--paranoid` reads all of it after that.
"""


def lines() -> Iterator[str]:
    """The document, as this run makes it."""
    yield OPENING
    for heading, columns in COLUMNS.items():
        yield f"## {heading}\n"
        yield f"| {' | '.join(columns)} |"
        yield f"|{'---|' * len(columns)}"
        for row in ROWS.get(heading, []):
            assert len(row) == len(columns), row
            yield f"| {' | '.join(row)} |"
        yield ""


def test_the_table_is_what_came_out(request: pytest.FixtureRequest) -> None:
    require()
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    ran = {Path(str(item.path)).stem for item in request.session.items}
    missing = [module.__name__ for module in MODULES if module.__name__.split(".")[-1] not in ran]
    if missing:
        pytest.skip(
            f"made by all of tests/integration/card/test_faults*.py together; not run: {', '.join(missing)}"
        )
    made = "\n".join(lines()).rstrip("\n") + "\n"
    if os.environ.get("PIIMG_WRITE_FAULTS") == "1":
        DOCUMENT.write_text(made)
    differences = "\n".join(
        unified_diff(DOCUMENT.read_text().splitlines(), made.splitlines(), n=0, lineterm="")
    )
    assert not differences, f"docs/faults.md is not what came out: make faults\n{differences}"
