"""`piimg boot` with one node: good on every base, on both machines; never a trace, whatever ends it."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.boot.kernel import KEPT, LOADED, companion
from imagebuilder.boot.machine import card
from imagebuilder.boot.run import bring_up, guest, prove, settle, wait_for_login
from imagebuilder.events import Silent
from imagebuilder.system import loop
from imagebuilder.system.process import ToolError
from tests.support import judge
from tests.support.cluster import Place, command
from tests.support.waiting import wait_until
from tests.system.boot.conftest import CACHE, RELEASES
from tests.system.boot.rig import expected, laboratory

Built = Callable[[str], Place]
IMAGES = ("--images", "build")  # the base image is not kept
SHARED = {"PIIMG_CACHE": str(CACHE.folder)}
LIMIT = 300.0  # seconds in which a node is to be booted and checked on two cores
MEMORY = 800 << 20  # bytes: a node's own 512 MiB, which its page cache fills, translated code, and QEMU
CARD = 4 << 30  # bytes


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def runs() -> set[Path]:
    """The private folders of runs that are there."""
    return set(CACHE.boot.glob("run-*"))


def working_in(folder: Path) -> list[str]:
    """The programs that run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue
    return found


def hearing(*words: str | Path) -> list[str]:
    """The command line of piimg that hears Ctrl-C, also where the tests run in the background of a shell."""
    return ["env", "--default-signal=INT", *command(*words)]


@pytest.mark.boot
@pytest.mark.timeout(900)
@pytest.mark.parametrize("release", RELEASES)
def test_a_node_is_what_the_manifest_says(built: Built, release: str) -> None:
    place, before = built(release), runs()
    image = place.build / "worker2.img"
    was = digest(image)
    begun = time.monotonic()
    report = place.folder / "boot.html"
    document = json.loads(
        place.good("boot", *IMAGES, "--node", "worker2", "--json", "--report", report, env=SHARED)
    )
    took = time.monotonic() - begun
    (node,) = document["nodes"]
    assert node["node"] == "worker2" and node["good"] and node["error"] is None
    assert len(node["checks"]) > 20
    assert "swap" in {one["check"] for one in node["checks"]}
    assert [one for one in node["checks"] if one["good"] is not True] == []
    assert took < LIMIT
    assert 0 < node["memory"] < MEMORY
    page = report.read_text()
    assert "every check is good" in page and "What is wrong" not in page
    for measured in (f"<span>{node['seconds']:.0f} s</span>", "<dd>worker2</dd>", "<dd>10.0.0.12/24</dd>"):
        assert measured in page
    assert digest(image) == was
    assert runs() <= before


@pytest.mark.checks
@pytest.mark.timeout(1200)
@pytest.mark.skipif("bookworm" not in RELEASES, reason="bookworm was not asked for")
def test_a_raspberry_pi_3_starts_its_own_kernel(built: Built) -> None:
    place = built("bookworm")
    document = json.loads(
        place.good("boot", *IMAGES, "--node", "worker2", "--machine", "raspi3b", "--json", env=SHARED)
    )
    assert document["machine"] == "raspi3b"
    assert document["nodes"][0]["good"]


@pytest.mark.boot
@pytest.mark.timeout(900)
def test_a_shell_runs_what_is_typed(built: Built) -> None:
    place = built(RELEASES[0])
    done = subprocess.run(
        command("boot", *IMAGES, "--node", "worker2", "--shell"),
        cwd=place.folder, env={**place.env, **SHARED}, input="uname -n; id -un\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()[-2:]) == (0, ["worker2", "pi"]), done.stderr


@pytest.mark.boot
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_piimg(built: Built, number: signal.Signals) -> None:
    place, before = built(RELEASES[0]), runs()
    with subprocess.Popen(
        hearing("boot", *IMAGES, "--node", "worker2"),
        cwd=place.folder, env={**place.env, **SHARED}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as booting:  # fmt: skip
        while not (new := runs() - before) or len(working_in(folder := min(new))) < 2:
            assert booting.poll() is None
            time.sleep(0.1)
        assert working_in(folder) == ["qemu-system-aar"] * 2  # the switch and the node
        console = folder / "worker2.console"
        wait_until(lambda: console.exists() and console.stat().st_size, 120)  # its kernel runs
        os.kill(booting.pid, number)
        begun = time.monotonic()
        _, said = booting.communicate(timeout=60)
    assert time.monotonic() - begun < 20
    time.sleep(0.5)
    assert working_in(folder) == []
    if number is signal.SIGKILL:
        assert booting.returncode == -signal.SIGKILL
        assert f"removed {folder}" in place.good("cleanup", env=SHARED)
    else:
        assert booting.returncode == 130 and b"interrupted" in said
    assert not folder.exists()


@pytest.mark.checks
@pytest.mark.timeout(1800)
def test_a_flashed_card_boots_and_says_so(built: Built, tmp_path: Path) -> None:
    """The card that `piimg flash` wrote, booted, its power cut in between; then inspected and verified."""
    place, release = built(RELEASES[0]), RELEASES[0]
    backing = tmp_path / "card"
    with backing.open("wb") as stream:
        stream.truncate(CARD)
    with loop.attached(backing, direct_io=True) as device:
        place.good("flash", device, *IMAGES, "--node", "worker2", "--virtual", "--yes")
        with laboratory(place, ["worker2"]) as lab:
            node = lab.cluster.node("worker2")
            with guest(lab, node, card(device)) as one:
                bring_up(one, Silent())
                wanted = expected(place, "worker2", release)
                first = prove(one, wanted, Silent())
                assert first.good, (first.trouble, [o for o in first.outcomes if o.wrong])
                before = one.login.run("cat /etc/machine-id").stdout
                one.login.run("sudo sync")
                starts = one.machine.starts
                one.machine.power_cut()
                one.machine.power_on()
                wait_for_login(one)
                settle(one, wanted)
                assert one.machine.starts == starts + 1
                assert one.login.run("cat /etc/machine-id").stdout == before
                again = prove(one, wanted, Silent())
                assert again.good, (again.trouble, [o for o in again.outcomes if o.wrong])
                with contextlib.suppress(ToolError):  # the connection may end before the command does
                    one.login.run("sudo systemctl poweroff")
                one.machine.wait_off(120)
        judge.check_file_systems(device, tmp_path)
        inspected = json.loads(place.good("inspect", device, "--json"))
        assert inspected["node"] == "worker2"
        scripts = inspected["firstboot"]["scripts"]
        assert scripts and {script["status"] for script in scripts} == {"done"}
        verified = json.loads(place.good("verify", device, *IMAGES, "--node", "worker2", "--json"))
        assert verified["state"]["state"] == "booted since"


@pytest.mark.boot
def test_the_companion_kernel_has_what_a_node_needs() -> None:
    with companion(CACHE, Silent()) as kernel:
        packed = kernel.initramfs.read_bytes()
    words = ["cpio", "-t", "--quiet"]
    listed = subprocess.run(words, input=packed, capture_output=True, check=True).stdout.decode()
    names = set(listed.splitlines())
    assert {"init", "bin/busybox", "lib/modules/order", "proc", "mnt"} <= names
    modules = {name for name in names if name.endswith(".ko")}
    found = {Path(name).stem.replace("_", "-") for name in modules}
    assert {"nf-tables", "nft-masq", "nf-nat", "nf-conntrack", "virtio-blk", "ext4", "vfat"} <= found
    assert all(any(place in name for name in modules) for place in KEPT)
    assert found >= {name.replace("_", "-") for name in LOADED if name not in ("virtio_rng",)} - {
        "virtio-mmio"
    }
    assert re.fullmatch(r"6\.1\.\d+-\d+-arm64", kernel.version)
