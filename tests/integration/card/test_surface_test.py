"""The full test of a card: a sound one is called good, of a fake one it is reported what it really keeps."""

import threading

import pytest

from imagebuilder.card.report import Verdict
from imagebuilder.card.surface_test import examine
from imagebuilder.events import Silent
from tests.integration.card.conftest import MIB, MakeCard
from tests.integration.card.rig import SIZE, Rig
from tests.integration.card.test_write import Meddler


def test_a_sound_card_keeps_all(make_card: MakeCard) -> None:
    card = make_card(size=20 * MIB + 512)
    exam = examine(card, Silent(), threading.Event())
    assert (exam.verdict, exam.kept, exam.error) == (Verdict.GOOD, card.size, "")
    assert exam.write_rate > 0 and exam.read_rate > 0
    with card.node.open("rb") as stream:
        assert stream.read(MIB) == bytes(MIB)


@pytest.mark.parametrize(
    ("fault", "kept", "offset"),
    [
        ({"wrap": 24 * MIB}, 24 * MIB, 0),
        ({"wrap": 32 * MIB}, 32 * MIB, 0),
        ({"limbo": 40 * MIB}, 40 * MIB, 40 * MIB),
        ({"fault": "lost-write", "at": 50 * MIB + 7}, SIZE - 4096, 50 * MIB),
        ({"fault": "flip-on-read", "at": 9 * MIB + 5000}, SIZE - 4096, 9 * MIB + 4096),
    ],
)
def test_what_a_bad_card_keeps_is_reported(
    make_faulty: Rig, fault: dict[str, int], kept: int, offset: int
) -> None:
    exam = examine(make_faulty(**fault), Silent(), threading.Event())
    assert (exam.verdict, exam.kept, exam.offset) == (Verdict.BAD, kept, offset)
    assert f"{SIZE // MIB} MiB, and kept {kept >> 20} MiB" in exam.error


def test_a_write_error_ends_it(make_faulty: Rig) -> None:
    exam = examine(make_faulty(fault="write-error", at=30 * MIB), Silent(), threading.Event())
    assert (exam.verdict, exam.offset) == (Verdict.FAILED, 30 * MIB)


def test_it_can_be_interrupted(make_card: MakeCard) -> None:
    stop = threading.Event()
    exam = examine(make_card(size=32 * MIB), Meddler("write", 8 * MIB, stop.set), stop)
    assert exam.verdict is Verdict.INTERRUPTED
    assert "does not boot" in exam.error
