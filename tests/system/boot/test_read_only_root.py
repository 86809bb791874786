"""A node that keeps its card: root is only read from the second start on, with a data partition beside it."""

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.boot.machine import card
from imagebuilder.boot.run import Guest, bring_up, guest, prove, settle, wait_for_login
from imagebuilder.events import Silent
from imagebuilder.image.inspect import inspect_image
from imagebuilder.image.partitions import read_table
from imagebuilder.system.process import ToolError
from tests.support.cluster import Place
from tests.support.judge import said as program_says
from tests.system.boot.conftest import RELEASES
from tests.system.boot.rig import expected, laboratory

MIB = 1 << 20
CARD, ROOT = 5 << 30, 3 << 30  # bytes
LOWER = "/usr/local/lib/piimg/root-ro"

pytestmark = [pytest.mark.checks, pytest.mark.timeout(2400)]  # minutes for each release


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
def test_root_is_only_read_and_data_is_kept(
    built: Callable[[str], Place], release: str, tmp_path: Path
) -> None:
    place, image = built(release), tmp_path / "card"
    subprocess.run(["cp", "--sparse=always", place.build / "worker3.img", image], check=True)
    with image.open("r+b") as stream:
        stream.truncate(CARD)
    before = read_table(image)
    with laboratory(place, ["worker3"]) as lab:
        node = lab.cluster.node("worker3")
        with guest(lab, node, card(image)) as one:
            bring_up(one, Silent())
            wanted = expected(place, "worker3", release)
            settle(one, wanted)
            status = said(one, "sudo piimg-read-only-root status")
            assert status == "root is writable, and only read from the next start on\n"
            said(one, "echo kept | sudo tee /etc/kept /srv/data/file; sudo sync")

            restart(one)
            settle(one, wanted)
            proof = prove(one, wanted, Silent())
            assert proof.good, (proof.trouble, [o for o in proof.outcomes if o.wrong])
            assert said(one, "findmnt -nro FSTYPE /") == "overlay\n"
            for path in (LOWER, wanted.boot_mount):
                assert said(one, f"findmnt -nro OPTIONS {path}").startswith("ro,")
            assert said(one, "cat /proc/swaps").count("\n") == 1
            assert one.login.run(f"sudo touch {LOWER}/etc/x").returncode != 0
            said(one, "echo gone | sudo tee /etc/gone; echo more | sudo tee -a /srv/data/file; sudo sync")
            assert said(one, "cat /etc/kept /etc/gone /srv/data/file") == "kept\ngone\nkept\nmore\n"
            assert said(one, "sudo piimg-read-only-root off") == "root is writable from the next start on\n"

            restart(one)
            assert said(one, "findmnt -nro FSTYPE /") == "ext4\n"
            assert said(one, "cat /etc/kept /srv/data/file; ls /etc/gone || echo none").endswith(
                "kept\nkept\nmore\nnone\n"
            )
            with contextlib.suppress(ToolError):  # the connection may end before the command does
                one.login.run("sudo systemctl poweroff")
            one.machine.wait_off(120)
    table = read_table(image)
    boot, root, data = table.slices
    assert table.disk_id != before.disk_id
    assert (boot, root.start, root.size) == (before.slices[0], before.slices[1].start, ROOT)
    assert root.end <= data.start < root.end + 4 * MIB
    assert data.end == CARD
    for part in (root, data):
        program_says("e2fsck", "-f", "-n", f"{image}?offset={part.start}")
    assert inspect_image(image).identity["node"] == "worker3"
