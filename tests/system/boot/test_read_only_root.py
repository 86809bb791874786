"""The layer read-only-root: root is only read from the second start on, until that is switched off."""

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.boot.machine import card
from imagebuilder.boot.run import Guest, bring_up, guest, prove, settle, wait_for_login
from imagebuilder.events import Silent
from imagebuilder.system.process import ToolError
from tests.support.cluster import Place
from tests.support.judge import check_file_systems
from tests.system.boot.conftest import RELEASES
from tests.system.boot.rig import expected, laboratory

CARD = 4 << 30  # bytes
LOWER = "/usr/local/lib/piimg/root-ro"

pytestmark = [pytest.mark.boot, pytest.mark.timeout(2400)]


def restart(one: Guest) -> None:
    """Cut the power, and wait until the node is up again."""
    one.machine.power_cut()
    one.machine.power_on()
    wait_for_login(one)


def said(one: Guest, command: str) -> str:
    """What a shell command on the node prints; it must succeed."""
    done = one.login.run(command)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.decode()


@pytest.mark.parametrize("release", RELEASES)
def test_root_is_only_read_from_the_second_start_on(
    built: Callable[[str], Place], release: str, tmp_path: Path
) -> None:
    place, image = built(release), tmp_path / "card"
    subprocess.run(["cp", "--sparse=always", place.build / "worker4.img", image], check=True)
    with image.open("r+b") as stream:
        stream.truncate(CARD)
    with laboratory(place, ["worker4"]) as lab:
        node = lab.cluster.node("worker4")
        with guest(lab, node, card(image)) as one:
            bring_up(one, Silent())
            wanted = expected(place, "worker4", release)
            settle(one, wanted)
            assert "root is writable, and only read from the next" in said(one, "piimg-read-only-root status")
            said(one, "echo kept | sudo tee /etc/kept; sudo sync")

            restart(one)
            settle(one, wanted)
            proof = prove(one, wanted, Silent())
            assert proof.good, (proof.trouble, [o for o in proof.outcomes if o.wrong])
            assert said(one, "findmnt -nro FSTYPE /") == "overlay\n"
            for path in (LOWER, wanted.boot_mount):
                assert said(one, f"findmnt -nro OPTIONS {path}").startswith("ro,")
            assert said(one, "cat /proc/swaps").count("\n") == 1
            assert said(one, "echo gone | sudo tee /etc/gone; sudo sync; cat /etc/kept /etc/gone") == (
                "gone\nkept\ngone\n"
            )
            assert one.login.run(f"sudo touch {LOWER}/etc/x").returncode != 0

            restart(one)
            assert one.login.run("cat /etc/gone").returncode != 0
            assert said(one, "sudo piimg-read-only-root off") == "root is writable from the next start on\n"

            restart(one)
            assert said(one, "findmnt -nro FSTYPE /") == "ext4\n"
            assert said(one, "cat /etc/kept") == "kept\n"
            with contextlib.suppress(ToolError):  # the connection may end before the command does
                one.login.run("sudo systemctl poweroff")
            one.machine.wait_off(120)
    check_file_systems(image, tmp_path)
