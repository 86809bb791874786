"""The verdict that an error means, and the report as data."""

from pathlib import Path

import pytest

from imagebuilder.card.io import BadCard, CardError
from imagebuilder.card.report import CardReport, Verdict, document, problem_of, verdict_of
from imagebuilder.errors import Interrupted, PiimgError

DEVICE = "/dev/sdx"


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Interrupted("stopped", ""), Verdict.INTERRUPTED),
        (BadCard(Path(DEVICE), "does not hold it", "use another", 7), Verdict.BAD),
        (CardError(Path(DEVICE), "is gone", "put it in"), Verdict.FAILED),
        (PiimgError("the image changed"), Verdict.FAILED),
    ],
)
def test_the_verdict_of_an_error_of_ours(error: PiimgError, verdict: Verdict) -> None:
    assert verdict_of(error, DEVICE) == (verdict, error)


def test_any_other_error_is_a_failure_of_that_card_alone() -> None:
    try:
        raise ZeroDivisionError("division by zero")
    except ZeroDivisionError as error:
        verdict, reported = verdict_of(error, DEVICE)
        assert error.__traceback__ is None  # its frames would hold the card's buffers
    assert verdict is Verdict.FAILED
    assert reported.message == "/dev/sdx: ZeroDivisionError('division by zero')"
    assert problem_of(reported) == "ZeroDivisionError('division by zero')"


@pytest.mark.parametrize("verdict", Verdict)
def test_only_good_and_unverified_are_done(verdict: Verdict) -> None:
    report = CardReport(DEVICE, "usb 1-1", "", "", 0, "worker1", "worker1.img", verdict, problem="x")
    assert report.done is (verdict in (Verdict.GOOD, Verdict.UNVERIFIED))
    found = document([report], ["worker2"])
    assert found["remaining"] == ["worker2"]
    (card,) = found["cards"]  # type: ignore[misc]
    assert card["verdict"] == verdict.value and "problem" not in card  # type: ignore[has-type]
