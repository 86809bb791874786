"""The events of what is done to cards, when it succeeds, fails or is stopped: each task that started ends."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.card.conftest import BOOT, MIB, MakeCard
from tests.integration.card.manning import READY
from tests.integration.card.rig import Rig, below
from tests.integration.card.running import command, environment
from tests.integration.card.slots import slots
from tests.support.events import Event, events, interrupted, not_ended, outcomes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long

FLASH = ("flash", "--node", "worker1", "--virtual", "--yes", "--full")
VERIFY = ("verify", "--node", "worker1")
TEST = ("cards", "--virtual", "--yes", "--test")


def run(cluster: Path, *words: str | Path) -> tuple[int, list[Event]]:
    line = command("--progress", "json", *words)
    done = subprocess.run(
        line, cwd=cluster, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, events(done.stderr.splitlines())


def test_cards_that_are_good(cluster: Path, make_card: MakeCard) -> None:
    card = make_card(size=64 * MIB)
    for words in (FLASH, FLASH[:-1], VERIFY, TEST):
        status, emitted = run(cluster, *words, card.node)
        assert status == 0, emitted
        assert not_ended(emitted) == []
        ended = outcomes(emitted, str(card.node))
        assert ended and all(ended.values())


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (FLASH, {"fault": "write-error", "after": 8 * MIB}),
        (FLASH, {"fault": "lost-write", "at": 21 * MIB}),
        (VERIFY, {"fault": "read-error", "after": 5 * MIB}),
        (TEST, {"fault": "write-error", "after": 20 * MIB}),
    ],
)
def test_cards_that_fail(
    words: tuple[str, ...], fault: dict[str, str | int], cluster: Path, make_faulty: Rig
) -> None:
    card = make_faulty(**fault)
    status, emitted = run(cluster, *words, card.node)
    assert status == 3, emitted
    assert not_ended(emitted) == []
    assert not all(outcomes(emitted, str(card.node)).values())


def test_an_image_that_is_not_what_its_map_says(cluster: Path, make_card: MakeCard) -> None:
    """A map of other tools has ranges of any length: those are read first, as a task of the image."""
    if shutil.which("bmaptool") is None:
        pytest.skip("bmaptool is not installed: sudo apt-get install bmap-tools")
    image = cluster / "own.img"
    image.write_bytes((cluster / "build" / "worker1.img").read_bytes())
    subprocess.run(["bmaptool", "-q", "create", "-o", image.with_suffix(".bmap"), image], check=True)
    words = ("flash", "--image", image, "--virtual", "--yes", make_card().node)
    for good in (True, False):
        status, emitted = run(cluster, *words)
        assert (status == 0) is good
        assert not_ended(emitted) == []
        assert outcomes(emitted, image.name) == {"check": good}
        with image.open("r+b") as stream:
            stream.seek(BOOT)
            stream.write(b"spoiled")


@pytest.mark.parametrize(
    ("words", "task"), [(FLASH, "write"), (FLASH, "read-back"), (VERIFY, "read-back"), (TEST, "write")]
)
def test_cards_that_are_stopped(
    words: tuple[str, ...], task: str, cluster: Path, images: Path, make_faulty: Rig
) -> None:
    slow = {"fault": "stall-on-read", "stall": "0.2"} if task == "read-back" else {"delay": "0.05"}
    card = make_faulty(**slow)
    if words == VERIFY:
        with below(card).open("r+b") as stream:
            stream.write((images / "worker1.img").read_bytes())
    line = command("--progress", "json", *words, card.node)
    status, emitted = interrupted(line, cluster, environment(), task, "advanced")
    assert status == 130
    assert not_ended(emitted) == []
    assert outcomes(emitted, str(card.node))[task] is False


@pytest.mark.parametrize("stopped", [False, True])
def test_a_station(stopped: bool, cluster: Path, tmp_path: Path, make_faulty: Rig, root: None) -> None:
    card = make_faulty.serve(delay="0.05" if stopped else "0")
    with slots(1) as (slot,):
        said = tmp_path / "said"
        with said.open("wb") as stream:
            words = ("--progress", "json", "station", "--virtual", "--yes", f"--slot={slot.name}=worker1")
            process = subprocess.Popen(
                command(*words),
                cwd=cluster, env=environment(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip
        try:
            wait_for(said, READY)
            slot.put(card)
            if stopped:
                wait_for(said, '"event": "advanced"')
                process.send_signal(signal.SIGINT)
            status = process.wait(60)
        finally:
            process.kill()
            process.wait()
        emitted = events(said.read_text().splitlines())
        assert status == (130 if stopped else 0)
        assert not_ended(emitted) == []
        assert outcomes(emitted, str(slot.node))["flash"] is not stopped


def wait_for(file: Path, text: str) -> None:
    wait_until(lambda: text in file.read_text(), 30, file.read_text)
