"""What goes wrong around a card: another one in its slot, a second piimg, a full disk."""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.card.report import Verdict
from imagebuilder.card.source import HEAD, open_source
from imagebuilder.card.write import NO_NODE, FlashJob, flash
from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.events import Silent
from imagebuilder.system.process import run
from tests.integration.card.conftest import CARD_SIZE, MIB, MakeCard
from tests.integration.card.faults import Bench, When, first_wrong, tell
from tests.integration.card.rig import Rig, below
from tests.integration.card.test_busy import WRITER, python
from tests.integration.card.test_commands import piimg, slow_flash
from tests.integration.card.test_terminal import Terminal, terminal

pytestmark = pytest.mark.long

__all__ = ["terminal"]  # a fixture

HEADING = "What goes wrong around a card"
NOTHING = "nothing is written"


def grow(card: Disk, other: Path) -> None:
    """The card has another size all of a sudden."""
    os.truncate(card.backing, CARD_SIZE + MIB)
    run(["losetup", "--set-capacity", card.node])


def exchange(card: Disk, other: Path) -> None:
    """Another card of the same size is put into the slot."""
    run(["losetup", "--detach", card.node])
    run(["losetup", "--direct-io=on", card.node, other])


@pytest.mark.parametrize(
    ("act", "what", "reported"),
    [
        (grow, "its size changes", "size was 32000000000, is 32001048576"),
        (exchange, "another card of its size is put into the slot", "medium was"),
    ],
)
def test_a_card_that_changes_behind_the_question_is_not_written_to(
    make_card: MakeCard,
    terminal: Callable[..., Terminal],
    tmp_path: Path,
    act: Callable[[Disk, Path], None],
    what: str,
    reported: str,
) -> None:
    card, other = make_card(), tmp_path / "other"
    other.touch()
    os.truncate(other, CARD_SIZE)
    window = terminal("flash", card.node, "--node", "worker1", "--virtual")
    window.wait_for("Erase this card?")
    act(card, other)
    try:
        window.type("y\n")
        status, said = window.end()
        assert status == 2, said
        assert reported in said
        assert "is no longer the selected card" in said
        for file in (Path(card.backing), other):
            assert file.stat().st_blocks == 0, "something was written"
    finally:
        if disk_at(card.node).backing == str(other):
            run(["losetup", "--detach", card.node])
    tell(HEADING, f"{what} between the question and the answer", "refused", f"what changed; {NOTHING}")


def test_a_card_with_another_serial_is_not_written_to(card: Disk, bench: Bench) -> None:
    """Loop devices have none; so it is the question that was about another one."""
    report = flash(
        FlashJob(disk=replace(card, serial="0x1"), source=bench.source, target=NO_NODE),
        Silent(),
        threading.Event(),
    )
    assert (report.verdict, report.written) == (Verdict.FAILED, 0)
    assert "serial was 0x1" in report.error
    assert Path(card.backing).stat().st_blocks == 0
    tell(HEADING, "its serial is not the one asked about", report.verdict, f"what changed; {NOTHING}")


def test_a_second_piimg_leaves_the_card_to_the_first(cluster: Path, make_faulty: Rig) -> None:
    card = make_faulty(delay="0.05")
    with slow_flash(cluster, card) as first:
        second = piimg(cluster, "flash", card.node, "-n", "worker2", "--virtual", "-y", "--json")
        assert first.poll() is None, "the first was done too soon"
        (report,) = json.loads(second.stdout)["cards"]
        assert (second.returncode, report["verdict"], report["written"]) == (3, "failed", 0)
        assert f"(process {first.pid})" in report["error"]
        assert "is in use by" in report["error"]
        said, _ = first.communicate(timeout=60)
    assert first.returncode == 0
    assert [load["verdict"] for load in json.loads(said)["cards"]] == ["good"]
    assert first_wrong(open_source(cluster / "build" / "worker1.img"), below(card)) is None
    tell(HEADING, "a second piimg is to write to the same card", "failed", f"who uses it; {NOTHING}")
    tell(HEADING, "the first of two on the same card", "good", "–")


def test_another_program_that_opens_the_card_meanwhile_costs_the_verdict(bench: Bench) -> None:
    """It needs no O_EXCL, so the kernel does not keep it away. What it wrote nobody knows."""
    disk = bench.make_faulty()
    with ExitStack() as stack:
        programs: list[int] = []
        open_it = lambda: programs.append(stack.enter_context(python(WRITER, disk.node)))  # noqa: E731
        report = bench.flash(disk, When("write", 0, open_it))
    assert report.verdict is Verdict.FAILED
    assert f"(process {programs[0]})" in report.error
    tell(HEADING, "another program opens it for writing meanwhile", report.verdict, "which program")


@contextmanager
def full_disk(point: Path, content: Path) -> Iterator[Path]:
    """A file system of its own at ``point`` with a copy of the folder ``content``, and not a byte of room."""
    point.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", point])
    try:
        run(["cp", "-a", f"{content}/.", point])
        with (point / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError) as full:
            while True:
                filler.write(bytes(4096))
        assert full.value.errno == errno.ENOSPC
        yield point
    finally:
        run(["umount", point])


def test_a_full_disk_costs_the_report_but_not_the_card(cluster: Path, card: Disk, tmp_path: Path) -> None:
    with full_disk(tmp_path / "full", cluster) as folder:
        done = piimg(folder, "flash", card.node, "-n", "worker1", "--virtual", "-y", "--json")
        assert done.returncode == 0, done.stderr
        (report,) = json.loads(done.stdout)["cards"]
        assert report["verdict"] == "good"
        warned = [line for line in done.stderr.splitlines() if "No space left on device" in line]
        assert any("flash-report.json" in line for line in warned), done.stderr
        assert any("flash-report.json" not in line for line in warned), "the history was not warned of"
        assert not (folder / "build" / "flash-report.json").exists()
        assert "Traceback" not in done.stderr
    assert first_wrong(open_source(cluster / "build" / "worker1.img"), Path(card.backing)) is None
    reported = "a warning each; the report is printed all the same"
    tell(HEADING, "no room for the report and the history", report["verdict"], reported)


def test_a_full_disk_does_not_hide_a_bad_card(cluster: Path, make_faulty: Rig, tmp_path: Path) -> None:
    bad = make_faulty(fault="zeros")
    with full_disk(tmp_path / "full", cluster) as folder:
        done = piimg(folder, "flash", bad.node, "-n", "worker1", "--virtual", "-y")
    assert done.returncode == 3, done.stderr
    assert " bad" in done.stdout
    with below(bad).open("rb") as medium:
        assert medium.read(HEAD)[510:512] != b"\x55\xaa"
    reported = "a warning each; the report is printed all the same"
    tell(HEADING, "no room for the report and the history, and a bad card", "bad", reported)
