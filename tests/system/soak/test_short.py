"""A few cards through one station, as `make soak` has hundreds; and that the judge finds what is wrong."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.system.soak.drawn import KINDS, Cycle, draw
from tests.system.soak.judging import Medium, judge
from tests.system.soak.soaking import soaking

MIB = 1 << 20


@pytest.mark.timeout(120)
def test_a_few_cards_and_nothing_is_held_after(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    with soaking(tmp_path, seed=7, cycles=8, count=4, say=print, hanging=False) as soak:
        soak.wave(8)
        soak.end()
    assert len(soak.outcomes) == 8


def test_the_same_seed_draws_the_same_cards() -> None:
    used, nodes = [(0, 4096), (4 * MIB, 6 * MIB)], ["a", "b"]
    first, second = ([draw(1, number, used, nodes, hanging=True) for number in range(400)] for _ in range(2))
    assert first == second
    assert first != [draw(2, number, used, nodes, hanging=True) for number in range(400)]
    assert {one.kind for one in first} == set(KINDS)


GOOD = {"verdict": "good", "error": "", "retries": 0, "written": 1}
BAD = {"verdict": "bad", "error": "it is bad", "retries": 3, "written": 1}


@pytest.mark.parametrize(
    ("kind", "at", "report", "wrong"),
    [
        ("silent", 5 * MIB, GOOD, "byte 5242880 is wrong"),
        ("silent", None, BAD, "it has a partition table"),
        ("sound", None, BAD, "another card's fault"),
        ("sound", None, {**GOOD, "retries": 1}, "good, $"),
        ("silent", 510, GOOD, "byte 510 is wrong"),
    ],
)
def test_the_judge_finds_a_wrong_verdict(
    tmp_path: Path, kind: str, at: int | None, report: Mapping[str, object], wrong: str
) -> None:
    image, card = tmp_path / "image", tmp_path / "card"
    content = bytearray(os.urandom(8 * MIB))
    content[510:512] = b"\x55\xaa"
    image.write_bytes(content)
    if at is not None:
        content[at] ^= 1
    card.write_bytes(content)
    cycle, before = Cycle(0, kind, "ones"), b"\xff" * MIB
    with pytest.raises(AssertionError) as found:
        judge(
            cycle,
            Medium(card, {}),
            before,
            {**report, "image": image},
            [(0, MIB), (4 * MIB, 6 * MIB)],
            tmp_path,
        )
    assert re.search(wrong, str(found.value))
