"""Builds that are killed or interrupted: the next run works, nothing half-done stays, only ours is freed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.building.conftest import held
from tests.support import judge
from tests.support.cluster import Place, command, make_place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root")

KILLS = 12


@pytest.fixture
def somebody_elses(tmp_path: Path) -> Iterator[Path]:
    """A loop device that is not ours."""
    backing = tmp_path / "theirs"
    backing.write_bytes(bytes(1 << 20))
    device = Path(judge.said("losetup", "--find", "--show", backing).strip())
    yield device
    assert str(backing) in judge.said("losetup", "--list", "--noheadings", device)
    judge.said("losetup", "--detach", device)


def whole_or_absent(place: Place) -> None:
    """Where there is a NODE.json, the set belongs together: bmaptool takes the image by its map."""
    for document in place.build.glob("*.json"):
        image, block_map = document.with_suffix(".img"), document.with_suffix(".bmap")
        json.loads(document.read_bytes())
        judge.said("bmaptool", "-q", "copy", "--bmap", block_map, image, "/dev/null")


@pytest.mark.long
def test_sigkill_at_any_moment(
    specimen: Callable[[str], Path], place: Place, somebody_elses: Path, tmp_path: Path
) -> None:
    base = specimen("bookworm")
    words = ("build", "--node", "worker1", "--node", "worker2", "--base", base)
    begun = time.monotonic()
    place.good(*words)
    whole = time.monotonic() - begun
    before = held(place.folder)
    chance = random.Random(7)
    for kill in range(KILLS):
        for file in place.folder.glob("state/*/prepared/*"):
            file.unlink() if file.is_file() else None
        building = place.start(*words)
        time.sleep(whole * (kill + chance.random()) / KILLS)
        building.kill()
        building.wait()
        assert building.stdout and building.stderr
        building.stdout.close(), building.stderr.close()
        whole_or_absent(place)
    left = place.good("cleanup")
    assert held(place.folder) == before, left
    assert place.good("cleanup") == "nothing was left behind\n"
    assert not list(place.build.glob(".*.partial"))
    assert [name for name in kept_of(place) if name.startswith(".piimg-")] == []
    building = place.start(*words)
    time.sleep(whole / 2)
    building.kill()
    building.communicate()
    place.good(*words)  # without a cleanup between
    judge.check_file_systems(place.build / "worker1.img", tmp_path)
    assert held(place.folder) == before


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_builds_clean_up_by_themselves(
    number: signal.Signals, specimen: Callable[[str], Path], place: Place
) -> None:
    base = specimen("bookworm")
    place.good("fetch", "--insecure-no-checksum", base)  # so that the time goes into building
    before = held(place.folder)
    interrupted = 0
    for delay in (0.8, 1.2, 1.6, 2.0, 2.6, 3.2):
        building = place.start("build", "--all", "--jobs", "2", "--base", base)
        time.sleep(delay)
        building.send_signal(number)
        _, said = building.communicate(timeout=60)
        assert b"Traceback" not in said
        assert building.returncode in (130, 0), said
        interrupted += building.returncode == 130
        assert held(place.folder) == before
        assert not list(place.build.glob(".*.partial"))
        whole_or_absent(place)
    assert interrupted
    assert place.good("cleanup") == "nothing was left behind\n"


KEEP_STOP = """
prepare_node = builder.prepare_node
def kept(*given):
    global stop
    stop = given[-1]
    return prepare_node(*given)
builder.prepare_node = kept
"""
"""Has a program know the event ``stop`` that piimg sets when it has noticed a signal."""


def kept_of(place: Place) -> list[str]:
    """What is in the folder of prepared nodes, but for locks."""
    return sorted(file.name for file in place.folder.glob("state/*/prepared/*") if file.name != ".lock")


def assert_stopped(place: Place, script: str, base: Path) -> str:
    """Build by a script that interrupts itself: it ends with 130 and leaves nothing. Its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", script, "build", "--node", "worker1", "--base", base],
        cwd=place.folder, env=place.env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert not list(place.build.glob("*.img")) and not list(place.build.glob(".*.partial"))
    assert kept_of(place) == []
    return done.stderr


def test_an_interrupt_after_the_last_step_still_counts(specimen: Callable[[str], Path], place: Place) -> None:
    """The map is yet to be made: nobody wants to wait for it, nor for an image that was given up."""
    script = """
import os, signal
from imagebuilder import builder
from imagebuilder.cli.main import main
from imagebuilder.image import prepare
used_ranges = prepare.used_ranges
def interrupted(image):
    os.kill(os.getpid(), signal.SIGTERM)
    stop.wait(20)
    return used_ranges(image)
prepare.used_ranges = interrupted
{KEEP_STOP}
main()
"""
    script = script.replace("{KEEP_STOP}\n", KEEP_STOP)
    assert_stopped(place, script, specimen("bookworm"))


def test_an_interrupt_another_thread_takes_is_heard(specimen: Callable[[str], Path], place: Place) -> None:
    """As after Ctrl-Z: the kernel hands a signal that came meanwhile to whichever thread runs first."""
    script = """
import signal, threading
from imagebuilder import builder
from imagebuilder.cli.main import main
from imagebuilder.image import prepare
make_room = prepare.make_room
def interrupted(*given):
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    stop.wait(20)
    return make_room(*given)
prepare.make_room = interrupted
{KEEP_STOP}
main()
"""
    script = script.replace("{KEEP_STOP}\n", KEEP_STOP)
    assert_stopped(place, script, specimen("bookworm"))


def test_a_second_interrupt_does_not_cut_the_cleaning_up_short(
    specimen: Callable[[str], Path], place: Place, nothing_held: None
) -> None:
    script = """
import os, signal
from imagebuilder.cli.main import main
from imagebuilder.image import prepare
make_room = prepare.make_room
def interrupted(*given):
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    return make_room(*given)
prepare.make_room = interrupted
main()
"""
    stderr = assert_stopped(place, script, specimen("bookworm"))
    assert stderr.count("stopping and cleaning up") == 1 and "at once" not in stderr


def test_an_interrupt_while_it_is_loaded_ends_it_without_a_word(place: Place) -> None:
    script = """
import builtins, os, signal
load = builtins.__import__
def interrupted(name, *rest):
    if name == "imagebuilder.cli.main":
        os.kill(os.getpid(), signal.SIGINT)
    return load(name, *rest)
from imagebuilder.cli.start import main
builtins.__import__ = interrupted
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "plan"], env=place.env, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_a_signal_after_the_work_does_not_change_how_it_ended(place: Place) -> None:
    late = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    argv = command("plan", "--json")
    argv[2] = f"{late}; {argv[2]}"
    done = subprocess.run(argv, cwd=place.folder, env=place.env, capture_output=True, text=True, check=False)
    assert (done.returncode, "KeyboardInterrupt" in done.stderr) == (0, False), done.stderr
    assert json.loads(done.stdout)


def test_cleanup_leaves_a_living_run_alone(specimen: Callable[[str], Path], place: Place) -> None:
    building = place.start("build", "--all", "--jobs", "1", "--base", specimen("bookworm"))
    while building.poll() is None:
        assert place.good("cleanup") == "nothing was left behind\n"
    said = building.communicate()[1]
    assert building.returncode == 0, said


def test_two_builds_of_one_node_do_not_meet(specimen: Callable[[str], Path], place: Place) -> None:
    words = ("build", "--node", "worker1", "--base", specimen("bookworm"))
    place.good(*words)
    running = [place.start(*words) for _ in range(3)]
    ended = [(one.communicate()[1], one.returncode) for one in running]
    assert 0 in [status for _, status in ended]
    for said, status in ended:
        assert status in (0, 1) and (status == 0 or b"is being built" in said), said
    whole_or_absent(place)
    listed = subprocess.run(["ls", "-a", place.build], capture_output=True, text=True, check=True).stdout
    assert ".partial" not in listed


def test_a_base_that_is_built_on_is_not_pruned(specimen: Callable[[str], Path], tmp_path: Path) -> None:
    """`piimg fetch --prune --all` beside a build, again and again: the build comes out whole."""
    place = make_place(tmp_path, tmp_path / "cache")
    building = place.start("--progress", "json", "build", "--node", "worker1", "--base", specimen("bookworm"))
    assert building.stderr
    for line in building.stderr:
        if b'"task": "build"' in line:
            break
    building.send_signal(signal.SIGSTOP)  # a build may be quicker than a program starts
    said = [place.good("fetch", "--prune", "--all")]
    building.send_signal(signal.SIGCONT)
    while building.poll() is None:
        said.append(place.good("fetch", "--prune", "--all"))
    assert building.returncode == 0, building.communicate()
    building.communicate()
    assert "another piimg is using it" in said[0]
    whole_or_absent(place)
    place.good("fetch", "--prune", "--all")
    assert list((place.cache / "bases").iterdir()) == []
