"""`piimg flash --all` from round to round: who hears Ctrl-C when, and what ends the run; without devices."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from imagebuilder.card import rounds
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.cli import signals
from imagebuilder.cli.commands import flash
from imagebuilder.cli.flashing import Choice, FlashOutcome, WriteOptions
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import GracefulStop, graceful_stop
from imagebuilder.cli.stop_signals import SIGNALS
from imagebuilder.device.inventory import Candidate, CardChanged
from imagebuilder.errors import PiimgError
from tests.unit.card.test_rounds import NODES, card, written

Act = Callable[[list[Choice]], list[CardReport]]


@pytest.fixture(autouse=True)
def signals_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "_end_at_once", lambda *_: pytest.fail("it ends at once"))
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(
    monkeypatch: pytest.MonkeyPatch, *acts: Act, again: Callable[[], object] | None = None
) -> FlashOutcome:
    """Flash all nodes in one slot; each act is what one round does. ``again`` is called at the next wait.

    Afterwards a signal is sent, as one that comes while the report is made: it must not be raised.
    """
    left, looks = list(acts), [0]

    def survey(*_: object) -> list[Candidate]:
        looks[0] += 1
        if again and looks[0] > 3:
            again()
        return [card(1, len(acts) - len(left))]

    def write(
        session: object,
        graceful: GracefulStop,
        choices: list[Choice],
        how: object,
        notes: object,
        handled: dict[str, object],
    ) -> object:
        try:
            with graceful.interruptible():
                return left.pop(0)(choices)
        finally:
            handled.update({choice.candidate.disk.slot: choice.candidate.disk.identity for choice in choices})
            graceful.work_ended()

    monkeypatch.setattr(rounds, "_EVERY", 0)
    monkeypatch.setattr(flash, "survey", survey)
    monkeypatch.setattr(flash, "present", lambda *_: [])
    monkeypatch.setattr(flash, "write_cards", write)
    monkeypatch.setattr(flash, "at_terminal", lambda: True)
    sources = {name: SimpleNamespace(size=1) for name in NODES}
    monkeypatch.setattr(flash, "node_sources", lambda *_, **__: nullcontext(sources))
    cluster = SimpleNamespace(nodes=[SimpleNamespace(name=name) for name in NODES], name="picluster")
    with Plain(sys.stderr) as plain:
        session = Session(plain)
        session.__dict__["workspace"] = SimpleNamespace(
            cluster=cluster, has_keys=True, missing_keys=lambda **_: None, keys=lambda **_: None
        )
        with graceful_stop(session.stop, plain) as graceful:
            outcome = flash._flash_all(session, graceful, (), None, None, WriteOptions(), False)
            ctrl_c()
            assert session.stop.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return outcome


def ctrl_c(*_: object) -> list[CardReport]:
    os.kill(os.getpid(), signal.SIGINT)
    return []


def good(choices: Sequence[Choice]) -> list[CardReport]:
    return [written(choice.candidate, choice.node) for choice in choices]


def raising(error: BaseException) -> Act:
    def act(choices: Sequence[Choice]) -> list[CardReport]:
        raise error

    return act


def nodes(outcome: FlashOutcome) -> list[tuple[str, Verdict]]:
    return [(one.node, one.verdict) for one in outcome.done]


def test_round_after_round_until_every_node_has_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(monkeypatch, good, good, good)
    assert nodes(outcome) == [(node, Verdict.GOOD) for node in NODES]
    assert (outcome.remaining, outcome.stopped) == ([], False)


def test_a_card_that_changed_at_a_later_question_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = raising(CardChanged("it is another card", "look again"))
    outcome = run(monkeypatch, good, changed, good, good)
    assert [node for node, _ in nodes(outcome)] == list(NODES)
    assert "it is another card" in capsys.readouterr().err


@pytest.mark.parametrize("error", [CardChanged("another"), PiimgError("no"), KeyboardInterrupt()])
def test_what_ends_the_first_round_is_raised(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(monkeypatch, raising(error))


@pytest.mark.parametrize("end", [raising(PiimgError("no")), raising(OSError(5, "gone")), ctrl_c])
def test_what_ends_a_later_round_keeps_the_reports(monkeypatch: pytest.MonkeyPatch, end: Act) -> None:
    outcome = run(monkeypatch, good, end)
    assert nodes(outcome) == [("master", Verdict.GOOD)]
    assert outcome.remaining == ["worker1", "worker2"]
    assert outcome.stopped is (end is ctrl_c)


def test_ctrl_c_while_the_next_cards_are_waited_for_keeps_the_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = run(monkeypatch, good, good, good, again=ctrl_c)
    assert outcome.stopped and outcome.done
