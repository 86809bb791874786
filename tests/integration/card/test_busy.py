"""Cards that another program has open: real programs, on the disk and on its partitions.

O_EXCL does not keep these away. Who may write to a card is refused; who only reads it is named.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict
from imagebuilder.card.source import HEAD, ImageSource
from imagebuilder.card.write import FlashJob, Target, flash, verify
from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import holdings_of, read_host
from imagebuilder.device.inventory import survey
from imagebuilder.errors import UsageError
from imagebuilder.events import Advanced, Event, Silent
from imagebuilder.system import openers
from tests.integration.card.conftest import MakePart
from tests.integration.card.running import PIIMG, environment
from tests.support.waiting import wait_until

WRITER = "import os, sys; os.open(sys.argv[1], os.O_RDWR); print(flush=True); sys.stdin.read()"
READER = WRITER.replace("O_RDWR", "O_RDONLY")
FOR_A_MOMENT = "import os, sys; handle = os.open(sys.argv[1], os.O_RDWR); os.close(handle); print(flush=True)"


@contextlib.contextmanager
def python(script: str, device: Path) -> Iterator[int]:
    """A program that is done with opening ``device``; its process id."""
    with orphan([sys.executable, "-c", script, str(device)]) as pid:
        yield pid


@contextlib.contextmanager
def orphan(words: list[str]) -> Iterator[int]:
    """Run a program that is no descendant of this process, until the end of the block; its process id."""
    # Its parent ends at once, and leaves it to whoever takes orphans in.
    code = (
        "import os, subprocess, sys\n"
        "one = subprocess.Popen(sys.argv[1:])\n"
        "os.write(2, f'{one.pid}\\n'.encode()); os._exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", code, *words], stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin and process.stdout and process.stderr
        pid = int(process.stderr.readline())
        try:
            assert process.stdout.readline() == b"\n"
            yield pid
        finally:
            end(pid)


def end(pid: int) -> None:
    """End a process that is nobody's child here, and wait until it has closed all."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not _is_alive(pid), pause=0.01)


def _is_alive(pid: int) -> bool:
    """Whether a process has not ended yet: one that only waits to be asked for its status has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def reasons(disk: Disk) -> tuple[str, ...]:
    found = policy.refusals(disk, holdings_of(disk.name, read_host([disk.name])), virtual=True)
    return tuple(map(str, found))


def job(disk: Disk, source: ImageSource) -> FlashJob:
    return FlashJob(disk=disk, source=source, target=Target("worker1", ""))


def run_flash(disk: Disk, source: ImageSource) -> tuple[Verdict, str]:
    report = flash(job(disk, source), Silent(), threading.Event())
    return report.verdict, report.error


def test_a_writer_is_refused_before_the_question_and_when_the_card_is_opened(
    card: Disk, source: ImageSource
) -> None:
    with python(WRITER, card.node) as pid:
        named = rf"open for writing by python\S* \(process {pid}\)"
        (found,) = survey([card], True)
        with pytest.raises(UsageError, match=named) as error:
            policy.check(card, found.holdings, None, virtual=True)
        assert "end that program" in error.value.hint
        verdict, said = run_flash(card, source)
        assert (verdict, f"(process {pid})" in said) == (Verdict.FAILED, True), said
        assert Path(card.backing).stat().st_blocks == 0, "something was written"
    assert reasons(card) == ()
    assert run_flash(card, source) == (Verdict.GOOD, "")


def test_what_runs_a_virtual_machine_is_refused(card: Disk, source: ImageSource, tmp_path: Path) -> None:
    """QEMU's storage daemon opens a disk as QEMU does, without O_EXCL."""
    disk = f"driver=host_device,node-name=disk,filename={card.node},locking=off,cache.direct=on"
    kept = tmp_path / "pid"
    subprocess.run(
        ["qemu-storage-daemon", "--blockdev", disk, "--daemonize", "--pidfile", kept],
        check=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    pid = int(kept.read_text())
    try:
        done = subprocess.run(
            [*PIIMG, "flash", str(card.node), "--virtual", "--yes", "--image", str(source.content.base)],
            capture_output=True, text=True, check=False, env=environment(), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        end(pid)
    said = f"{card.name} is open for writing by qemu-storage-da (process {pid})"
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert Path(card.backing).stat().st_blocks == 0, "something was written"


def test_a_writer_of_a_partition_is_refused(
    card: Disk, make_partitioned: MakePart, source: ImageSource
) -> None:
    part = make_partitioned(card)
    with python(WRITER, part) as pid:
        (reason,) = reasons(card)
        assert reason.startswith(f"{part.name} is open for writing by ") and f"(process {pid})" in reason
        assert f"(process {pid})" in run_flash(card, source)[1]


def test_a_reader_is_noted_and_not_refused(card: Disk, source: ImageSource) -> None:
    with python(READER, card.node) as pid:
        (found,) = survey([card], True)
        assert found.refusals == () and len(found.notes) == 1
        assert found.notes[0].startswith(f"{card.name} is open for reading by python")
        assert f"(process {pid})" in found.notes[0]
        done = subprocess.run(
            [*PIIMG, "cards", "--virtual"], capture_output=True, text=True, check=False, env=environment()
        )
        assert f"{card.node}: note: {found.notes[0]}" in done.stdout.splitlines()
        assert run_flash(card, source) == (Verdict.GOOD, "")


def test_cards_names_the_writer_as_the_reason(card: Disk) -> None:
    with python(WRITER, card.node) as pid:
        done = subprocess.run(
            [*PIIMG, "cards", "--virtual", "--json"],
            capture_output=True, text=True, check=False, env=environment(),
        )  # fmt: skip
    (mine,) = [load for load in json.loads(done.stdout)["cards"] if load["device"] == str(card.node)]
    assert not mine["writable"] and f"(process {pid})" in mine["refusals"][0]


class When:
    """A Reporter that does something once, when a task is under way."""

    def __init__(self, task: str, act: "contextlib.AbstractContextManager[object]") -> None:
        self.task, self.act, self.stack = task, act, contextlib.ExitStack()
        self.done = False

    def emit(self, event: Event) -> None:
        if isinstance(event, Advanced) and event.task == self.task and not self.done:
            self.done = True
            self.stack.enter_context(self.act)


@pytest.mark.parametrize("script", [WRITER, FOR_A_MOMENT], ids=["stays", "closes-it-again"])
@pytest.mark.parametrize("task", ["write", "read-back"])
def test_a_writer_that_comes_meanwhile_costs_the_verdict(
    card: Disk, source: ImageSource, script: str, task: str
) -> None:
    when = When(task, python(script, card.node))
    with when.stack:
        report = flash(job(card, source), when, threading.Event())
    assert when.done and report.verdict is Verdict.FAILED
    assert "was opened for writing by" in report.error and "its content is not known" in report.error
    assert ("closed it since" in report.error) is (script is FOR_A_MOMENT)
    with card.node.open("rb") as stream:
        assert stream.read(HEAD) == bytes(HEAD), "it may boot"
    assert run_flash(card, source) == (Verdict.GOOD, "")


def test_a_writer_that_comes_while_a_right_card_is_read_costs_the_verdict_too(
    card: Disk, source: ImageSource
) -> None:
    assert run_flash(card, source) == (Verdict.GOOD, "")
    when = When("compare", python(WRITER, card.node))
    with when.stack:
        report = flash(job(card, source), when, threading.Event())
    assert (report.verdict, report.written) == (Verdict.FAILED, 0)
    assert "was opened for writing by" in report.error


def test_who_opens_a_card_for_a_moment_is_waited_for(card: Disk, source: ImageSource) -> None:
    script = WRITER.replace("sys.stdin.read()", "import time; time.sleep(0.5)")
    with python(script, card.node):
        assert reasons(card) == ()
    with python(script, card.node):
        assert run_flash(card, source) == (Verdict.GOOD, "")


def test_this_process_and_what_it_starts_are_not_counted(card: Disk) -> None:
    handle = os.open(card.node, os.O_RDWR | os.O_CLOEXEC)
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(card.node)], stdin=-1, stdout=-1)
    try:
        assert child.stdout and child.stdout.readline() == b"\n"
        number = card.node.stat().st_rdev
        assert [stranger for stranger in openers.strangers() if stranger.rdev == number] == []
    finally:
        os.close(handle)
        child.communicate()


def test_a_program_with_a_hostile_name_is_shown_harmless(card: Disk) -> None:
    naming = "open('/proc/self/comm', 'w').write('\\x1b[2Jbad\\n');"
    with python(naming + WRITER, card.node) as pid:
        assert reasons(card) == (f"{card.name} is open for writing by ?[2Jbad (process {pid})",)


def test_verify_says_that_a_card_is_open_for_writing(card: Disk, source: ImageSource) -> None:
    assert run_flash(card, source) == (Verdict.GOOD, "")
    assert verify(job(card, source), Silent(), threading.Event()).verdict is Verdict.GOOD
    with python(WRITER, card.node) as pid:
        done = subprocess.run(
            [*PIIMG, "verify", str(card.node), "--image", str(source.content.base)],
            capture_output=True, text=True, check=False, env=environment(),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is open for writing by" in done.stderr and f"(process {pid})" in done.stderr


def test_what_piimg_reads_of_a_card_is_not_taken_for_a_writer(card: Disk, source: ImageSource) -> None:
    """Another piimg that looks at the cards while one is written costs no verdict."""
    assert run_flash(card, source) == (Verdict.GOOD, "")
    with contextlib.closing(openers.OpenerWatch(card.node, card.node.stat().st_rdev)) as watch:
        assert watch.begin() == []
        for words in (["cards", "--virtual"], ["verify", str(card.node), "--image", str(source.content.base)],
                      ["inspect", str(card.node)]):  # fmt: skip
            subprocess.run([*PIIMG, *words], capture_output=True, check=False, env=environment())
            assert watch.since() == "", words
