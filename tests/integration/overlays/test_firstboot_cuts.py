"""The first-boot runner and the power: what it has said is on the card, and the watchdog leaves it time.

A power cut is a copy of what the disk below a file system has at that moment; the page cache is not in it.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.image import ext4
from tests.integration.overlays import machines
from tests.integration.overlays.machines import Machine, machine
from tests.integration.overlays.test_firstboot import RUNNER, Scratch, kill_session
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_MISSING = machines.missing()
_BOOT = "boot/firmware"
_JOURNAL = "/var/log/piimg/firstboot.log"
_SUMMARY = "/var/lib/piimg/firstboot/.summary"
_LIMIT = 1 << 20  # bytes


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Scratch]:
    """A root on an ext4 file system of its own, root.img. Not every host has FAT: see tests/system/cuts."""
    root = tmp_path / "root"
    root.mkdir()
    image = tmp_path / "root.img"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, root], check=True)
    try:
        for name in ("etc/piimg", "usr/local/lib/piimg/firstboot.d", _BOOT):
            (root / name).mkdir(parents=True)
        (root / "etc/piimg/node.conf").write_text(
            f"CLUSTER=c\nNODE=n\nBOOT_MOUNT=/{_BOOT}\nBACKOFF=0\nPATIENCE=1\n"
        )
        os.sync()
        yield Scratch(root)
    finally:
        subprocess.run(["umount", root], check=True)


def _cut(card: Scratch, number: int) -> Path:
    """The power goes now: what the disk has."""
    image = card.root.parent / f"cut{number}.img"
    subprocess.run(["cp", "--sparse=always", card.root.parent / "root.img", image], check=True)
    return image


def _log(cut: Path) -> str:
    subprocess.run(["e2fsck", "-fy", cut], capture_output=True, check=False)  # the journal's due
    return (ext4.read_file(cut, 0, _JOURNAL, _LIMIT) or b"").decode()


def test_what_was_said_is_on_the_card_when_the_power_goes(card: Scratch) -> None:
    card.script("10-talks", "echo first; echo second", "# needs: none")
    card.script("20-fails", "echo no luck; exit 3", "# retries: 1")
    process = subprocess.Popen(
        [RUNNER], env={**os.environ, "PIIMG_ROOT": str(card.root)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    cuts: list[tuple[str, Path]] = []
    said = ""
    for line in process.stdout:
        said += line
        cuts.append((said, _cut(card, len(cuts))))
    process.wait()
    last = _cut(card, len(cuts))
    assert said.count("exit status") == 3
    for before, cut in cuts:
        assert before in _log(cut)
    assert said == _log(last)
    for place in (_SUMMARY, f"/{_BOOT}/piimg-firstboot.json"):
        assert json.loads(ext4.read_file(last, 0, place, _LIMIT) or b"")["finished"] is True


def test_what_a_script_said_is_on_the_card_before_it_ends(card: Scratch) -> None:
    card.script("10-long", f"echo begun; touch {card.root.parent}/begun; sleep 60", "# retries: 0")
    process = card.start()
    try:
        wait_until((card.root.parent / "begun").exists)
        assert "begun\n" in _log(_cut(card, 0))
    finally:
        kill_session(process)


def test_a_summary_that_the_cut_spoiled_is_written_again(card: Scratch) -> None:
    card.script("10-one")
    card.boot()
    good = card.root / _BOOT / "piimg-firstboot.json"
    wanted = good.read_text()
    for bad in ("", '{"cluster": '):
        good.write_text(bad)
        card.boot()
        assert good.read_text() == wanted
    good.unlink()
    card.boot()
    assert good.read_text() == wanted
    # the cut came between the last stamp and the last summary
    kept = card.root / _SUMMARY.lstrip("/")
    kept.write_text(wanted.replace('"finished": true', '"finished": false'))
    card.boot()
    assert json.loads(good.read_text())["finished"] is True
    assert card.ran == ["10-one"]


# --- the watchdog -------------------------------------------------------------------------------------------

_BUSCTL = """#!/bin/bash
# In place of systemd's: the property RuntimeWatchdogUSec in a file, and every value it was given.
case $2 in
    get-property) echo "t $(</run/watchdog)" ;;
    set-property) echo "${*: -1}" | tee /run/watchdog >>/run/values ;;
esac
"""
_MINUTE = 60_000_000  # microseconds


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Machine]:
    """A machine with the runner, two scripts that write down the watchdog's time, and systemd's property."""
    if _MISSING:
        pytest.skip(_MISSING)
    (tmp_path / "disks").mkdir()
    with machine("worker1", tmp_path / "disks") as made:
        made.run(
            "sh", "-c", "cat >/usr/local/sbin/busctl; chmod +x /usr/local/sbin/busctl", data=_BUSCTL.encode()
        )
        made.run("sh", "-c", "cat >/usr/local/sbin/piimg-firstboot", data=RUNNER.read_bytes())
        made.shell(f"""
            chmod +x /usr/local/sbin/piimg-firstboot
            mkdir -p /etc/piimg /usr/local/lib/piimg/firstboot.d /run/boot
            printf 'BOOT_MOUNT=/run/boot\\nBACKOFF=0\\n' >/etc/piimg/node.conf
            for name in 10-one 20-two; do
                script=/usr/local/lib/piimg/firstboot.d/$name
                printf '#!/bin/sh\\n# retries: 0\\n. /run/script\\n' >$script
                chmod +x $script
            done
            echo 'cat /run/watchdog >>/run/during; . /run/then' >/run/script
            echo {_MINUTE} >/run/watchdog; touch /run/then
        """)
        yield made


def _values(node: Machine) -> list[int]:
    return [int(value) for value in node.shell("cat /run/values", ok=None).split()]


@pytest.mark.parametrize("then", ["", "exit 7"])
def test_the_watchdog_is_patient_while_scripts_run_and_put_back(node: Machine, then: str) -> None:
    node.run("sh", "-c", "cat >/run/then", data=then.encode())
    node.run("piimg-firstboot", ok=(1,) if then else (0,))
    assert node.shell("cat /run/during").split() == [str(10 * _MINUTE)] * 2
    assert _values(node) == [10 * _MINUTE, _MINUTE]
    node.run("piimg-firstboot", "restore-watchdog")  # ExecStopPost, at every end
    assert _values(node) == [10 * _MINUTE, _MINUTE]


def test_systemd_puts_the_watchdog_back_when_the_runner_was_killed(node: Machine) -> None:
    node.run("sh", "-c", "cat >/run/then", data=b"kill -KILL $(cat /run/runner)")
    node.run("bash", "-c", "echo $BASHPID >/run/runner; exec piimg-firstboot", ok=(-signal.SIGKILL,))
    assert node.shell("cat /run/watchdog") == f"{10 * _MINUTE}\n"
    unit = (RUNNER.parents[3] / "etc/systemd/system/piimg-firstboot.service").read_text()
    (after,) = [line for line in unit.splitlines() if line.startswith("ExecStopPost=")]
    node.run(*after.removeprefix("ExecStopPost=").split())
    assert node.shell("cat /run/watchdog") == f"{_MINUTE}\n"


@pytest.mark.parametrize("was", [0, 20 * _MINUTE, 2**64 - 1])
def test_a_watchdog_that_is_off_or_patient_is_left_alone(node: Machine, was: int) -> None:
    node.shell(f"echo {was} >/run/watchdog")
    node.run("piimg-firstboot")
    assert _values(node) == []


def test_without_systemd_the_scripts_run_all_the_same(node: Machine) -> None:
    node.shell("printf '#!/bin/sh\\nexit 1\\n' >/usr/local/sbin/busctl")
    node.run("piimg-firstboot")
    assert len(node.shell("cat /run/during").split()) == 2
