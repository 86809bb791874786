"""A signal at each moment of a run: a question is interrupted, and what was written has its report."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from imagebuilder.card import batch
from imagebuilder.card import report as reports
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.write import FlashJob
from imagebuilder.cli import flashing, signals, verdicts
from imagebuilder.cli.commands import flash
from imagebuilder.cli.main import _stop, piimg
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.signals import graceful_stop
from imagebuilder.cli.stop_signals import SIGNALS, ignore_signals
from imagebuilder.device import usb
from tests.unit.card.test_rounds import card, written

BEFORE, QUESTION, WRITING, BETWEEN, SAVING, SAVED, PRINTING = MOMENTS = (
    "before the question", "in the question", "while it is written", "before the report",
    "while the report is saved", "when it is saved", "while it is printed",
)  # fmt: skip


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def signals_of_piimg(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "_end_at_once", lambda *_: pytest.fail("it ends at once"))
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, _stop)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Run:
    """`piimg flash --image` of one card that is not there; ``number`` is sent at the moment ``at``."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, at: str, number: signal.Signals, times: int = 1
    ) -> None:
        self.at, self.number, self.times, self.reached = at, number, times, list[str]()
        self.report = folder / "report.json"
        self._image = folder / "own.img"
        self._image.write_bytes(bytes(4096))
        monkeypatch.chdir(folder)
        monkeypatch.delenv("PIIMG_MANIFEST", raising=False)
        save, describe = reports.save, verdicts.describe
        monkeypatch.setattr(flash, "present", lambda *_: self.reach(BEFORE, []))
        monkeypatch.setattr(flash, "survey", lambda *_: [card(1)])
        for name in ("check", "unmount", "_discard_typed_keys"):
            monkeypatch.setattr(flashing, name, lambda *_: None)
        for name in ("link_notes", "rights_notes"):
            monkeypatch.setattr(flashing, name, lambda *_: [])
        monkeypatch.setattr(flashing, "survey_again", lambda cards, _: list(cards))
        monkeypatch.setattr(flashing, "at_terminal", lambda: True)
        monkeypatch.setattr(flashing, "confirmed", lambda _: self.reach(QUESTION, True))
        monkeypatch.setattr(usb, "order_for_jobs", list)
        monkeypatch.setattr(batch, "run", self._write)
        monkeypatch.setattr(flashing, "suspected", lambda report, *_: self.reach(BETWEEN, report))
        monkeypatch.setattr(
            reports, "save", lambda *given: self.reach(SAVED, save(*self.reach(SAVING, given)))
        )
        monkeypatch.setattr(flashing, "describe", lambda done: self.reach(PRINTING, describe(done)))

    def reach(self, moment: str, result: Any) -> Any:
        self.reached.append(moment)
        if moment == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        return result

    def _write(
        self, jobs: Sequence[FlashJob], reporter: object, stop: threading.Event, *_: object
    ) -> list[CardReport]:
        self.reach(WRITING, None)
        return [written(card(1), "", Verdict.INTERRUPTED if stop.is_set() else Verdict.GOOD) for _ in jobs]

    def __call__(self) -> int:
        words = ["--progress", "plain", "flash", "/dev/none1", "--image", str(self._image)]
        status = piimg.main([*words, "--report", str(self.report)], standalone_mode=False)
        return int(status or 0)

    @property
    def verdicts(self) -> list[str]:
        return [load["verdict"] for load in json.loads(self.report.read_text())["cards"]]


@pytest.fixture(params=SIGNALS)
def number(request: pytest.FixtureRequest) -> signal.Signals:
    return signal.Signals(request.param)


@pytest.mark.parametrize("at", [BEFORE, QUESTION])
def test_nothing_is_written_when_a_question_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals, at: str
) -> None:
    run = Run(monkeypatch, tmp_path, at, number)
    with pytest.raises((KeyboardInterrupt, click.Abort)):
        run()
    assert run.reached[-1] == at and not run.report.exists()
    assert handlers() == [signal.SIG_IGN] * 3  # _stop did that: once is enough


@pytest.mark.parametrize("at", [WRITING, BETWEEN, SAVING, SAVED, PRINTING])
def test_what_was_written_has_its_report(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    at: str,
) -> None:
    run = Run(monkeypatch, tmp_path, at, number)
    status, verdict = (130, "interrupted") if at == WRITING else (0, "good")
    assert (run(), run.reached, run.verdicts) == (status, list(MOMENTS), [verdict])
    said = capsys.readouterr()
    assert verdict in said.out
    assert said.err.count("repeat to") == 1 and "interrupted" not in said.err
    assert handlers() == [_stop] * 3
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)  # after it


def test_a_run_without_a_signal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Run(monkeypatch, tmp_path, "never", signal.SIGINT)
    assert (run(), run.reached, run.verdicts) == (0, list(MOMENTS), ["good"])
    assert handlers() == [_stop] * 3


def test_who_asked_twice_to_stop_has_not_asked_to_lose_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run(monkeypatch, tmp_path, WRITING, signal.SIGINT)
    describe = verdicts.describe

    def describe_late(done: Sequence[CardReport]) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return describe(done)

    monkeypatch.setattr(flashing, "describe", describe_late)
    assert (run(), run.verdicts) == (130, ["interrupted"])


def twice(during: str) -> "subprocess.CompletedProcess[str]":
    """A process that gets SIGTERM twice ``during`` a part of its run."""
    script = f"""
import os, signal, sys, threading
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.signals import graceful_stop
def twice():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print("it goes on")
with Plain(sys.stderr) as plain, graceful_stop(
    threading.Event(), plain, lambda: print("first", flush=True), lambda: print("at once", flush=True)
) as graceful:
    plain.expect("/dev/none1", 1, "worker1 usb 1-1")
    {during}
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_the_second_signal_ends_the_process_at_once() -> None:
    done = twice("twice()")
    assert (done.returncode, done.stdout) == (130, "first\nat once\n")
    said = done.stderr.splitlines()
    assert said == [
        "stopping after the current block; repeat to stop at once",
        "piimg: stopped at once; not finished: worker1 usb 1-1",
    ]


def test_the_second_signal_at_the_report_ends_the_process_too() -> None:
    done = twice("graceful.work_ended(); twice()")
    assert (done.returncode, done.stdout) == (130, "at once\n")
    assert "the report is being made; repeat to end without it" in done.stderr


def test_a_signal_that_ends_processes_does_so_at_a_question() -> None:
    done = twice("exec('with graceful.interruptible(): twice()')")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


@pytest.fixture
def plain() -> Iterator[Plain]:
    with Path(os.devnull).open("w") as nowhere, Plain(nowhere) as renderer:
        yield renderer


def test_what_was_ignored_stays_ignored(plain: Plain) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    with graceful_stop(threading.Event(), plain) as graceful:
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with graceful.interruptible():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert handlers() == [_stop, _stop, signal.SIG_IGN]


def test_no_question_after_a_wish_to_stop(plain: Plain) -> None:
    stop = threading.Event()
    with graceful_stop(stop, plain) as graceful:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt), graceful.interruptible():
            pytest.fail("it asks")


def test_after_an_interrupt_the_report_is_covered(plain: Plain) -> None:
    """Also where the exception comes behind the last line of the block, which then ends nothing."""
    stop = threading.Event()
    with graceful_stop(stop, plain) as graceful:
        unended = graceful.interruptible()
        unended.__enter__()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
    assert handlers() == [signal.SIG_IGN] * 3


@pytest.mark.parametrize("restored", [_stop, signal.default_int_handler, signal.SIG_DFL])
def test_the_handlers_are_restored_whatever_happens(plain: Plain, restored: Callable[..., Any]) -> None:
    for number in SIGNALS:
        signal.signal(number, restored)
    with pytest.raises(ZeroDivisionError), graceful_stop(threading.Event(), plain):
        raise ZeroDivisionError
    assert handlers() == [restored] * 3
    ignore_signals()
    with graceful_stop(threading.Event(), plain):
        assert handlers() == [signal.SIG_IGN] * 3
    assert handlers() == [signal.SIG_IGN] * 3
