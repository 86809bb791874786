"""Flashing as an ordinary user: a member of the group disk, or by way of the real udisks2."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.card.source import HEAD
from tests.integration.card.conftest import MIB
from tests.integration.card.manning import Cards, holds, start
from tests.integration.card.running import by_images, environment
from tests.integration.card.slots import Slot, slots
from tests.support import machine as machines
from tests.support.machine import AS_USER, ID, POLKITD, UDISKSD, Machine
from tests.support.waiting import wait_until

OPEN = ("org.freedesktop.udisks2.open-device", "org.freedesktop.udisks2.open-device-system")
MOUNT = tuple(
    f"org.freedesktop.udisks2.filesystem-{what}" for what in ("mount", "mount-system", "unmount-others")
)
DISK = 6  # the group disk of Debian


@pytest.fixture
def slot(root: None) -> Iterator[Slot]:
    """An empty slot."""
    with slots(1) as (one,):
        yield one


@pytest.fixture
def host(slot: Slot, tmp_path: Path) -> Iterator[Machine]:
    """A machine with udev, and with the device file of the slot."""
    with machines.machine(tmp_path / "machine", rules="") as one:
        one.make_node(slot.number)
        yield one


@pytest.fixture
def desktop(host: Machine) -> Machine:
    """One that could have udisks2 too."""
    machines.require(UDISKSD, POLKITD, "dbus-daemon", "udisksctl")
    return host


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    """``cards()`` is a new card."""
    return Cards(tmp_path)


@pytest.fixture
def mine(cluster: Path) -> Iterator[Path]:
    """The cluster folder as the user has it."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        shutil.copytree(cluster, home / "cluster", symlinks=False)
        for path in (home, *home.rglob("*")):
            os.chown(path, ID, ID)
        yield home / "cluster"


def known(host: Machine, slot: Slot) -> None:
    """Wait until udev has looked at the card in the slot, and given the device file its mode."""
    ask = ("udevadm", "info", "--query=property", slot.node)
    wait_until(lambda: "USEC_INITIALIZED" in host.run(*ask).stdout, 30)
    host.good("udevadm", "settle")


def piimg(
    host: Machine, folder: Path, *words: object, groups: str = ""
) -> "subprocess.CompletedProcess[str]":
    """piimg, run by the user."""
    return subprocess.run(
        host.entered([sys.executable, "-c", AS_USER, *by_images(words)], folder),
        env={**environment(), "GROUPS_OF_USER": groups, "HOME_OF_USER": str(folder.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def flash(slot: Slot) -> list[object]:
    return ["flash", slot.node, "--node", "worker1", "--virtual", "--yes"]


def test_a_member_of_the_group_disk(host: Machine, slot: Slot, cards: Cards, mine: Path) -> None:
    """Everything of a card: listing, flashing, taking it up again, verifying, testing."""
    slot.put(cards(64 * MIB))
    known(host, slot)
    info = host.inside(slot.node).stat()
    assert (info.st_gid, info.st_mode & 0o777) == (DISK, 0o660)
    for _ in range(2):
        done = piimg(host, mine, *flash(slot), groups=str(DISK))
        assert (done.returncode, " good\n" in done.stdout) == (0, True), done.stdout + done.stderr
        assert holds(slot, mine, "worker1")
    seen = piimg(host, mine, "cards", "--virtual", groups=str(DISK))
    assert any(line.split()[:1] == [slot.name] and " worker1 " in line for line in seen.stdout.splitlines())
    checked = piimg(host, mine, "verify", slot.node, "--node", "worker1", groups=str(DISK))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = piimg(host, mine, "cards", "--test", slot.node, "--virtual", "--yes", groups=str(DISK))
    assert (tested.returncode, " good" in tested.stdout) == (0, True), tested.stderr
    assert {path.stat().st_uid for path in mine.rglob("*")} == {ID}


def test_a_disk_in_use_is_refused_to_a_member_of_the_group_disk(
    host: Machine, slot: Slot, cards: Cards, mine: Path, tmp_path: Path
) -> None:
    card = cards(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", card], check=True)
    slot.put(card)
    known(host, slot)
    (tmp_path / "point").mkdir()
    untouched = start(card)
    host.good("mount", "-o", "ro", slot.node, tmp_path / "point")
    try:
        done = piimg(host, mine, *flash(slot), groups=str(DISK))
        assert (done.returncode, f"{slot.name} is mounted at" in done.stderr) == (2, True), done.stderr
    finally:
        host.good("umount", tmp_path / "point")
    assert start(card) == untouched


def test_an_ordinary_user_without_udisks(host: Machine, slot: Slot, cards: Cards, mine: Path) -> None:
    slot.put(cards(64 * MIB))
    known(host, slot)
    done = piimg(host, mine, *flash(slot))
    assert (done.returncode, "may not be written to by this user" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert start(slot.node) == bytes(HEAD)


def test_udisks_opens_the_card(desktop: Machine, slot: Slot, cards: Cards, mine: Path) -> None:
    desktop.start_udisks(*OPEN)
    slot.put(cards(64 * MIB))
    known(desktop, slot)
    for _ in range(2):
        done = piimg(desktop, mine, *flash(slot))
        assert (done.returncode, " good\n" in done.stdout) == (0, True), done.stdout + done.stderr
        assert f"{slot.node} is opened by udisks2" in done.stderr
    assert holds(slot, mine, "worker1")
    tested = piimg(desktop, mine, "cards", "--test", slot.node, "--virtual", "--yes")
    assert (tested.returncode, " good" in tested.stdout) == (0, True), tested.stderr
    info = desktop.inside(slot.node).stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o007) == (0, DISK, 0)  # it was given no right to it


def test_doctor_knows_who_may_write_to_cards(desktop: Machine, mine: Path) -> None:
    """No card is there: what a user would need for one is shown."""

    def said(use: str, groups: str = "") -> str:
        done = piimg(desktop, mine, "doctor", use, groups=groups)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout, done.stderr
        return done.stdout

    lack = "this user has no permission to write to cards"
    assert lack in said("flash") and lack in said("station")
    assert lack not in said("flash", str(DISK)) + said("station", str(DISK))
    desktop.start_udisks(*OPEN)
    assert "udisks2 opens a card for this user" in said("flash") and lack not in said("flash")
    assert lack in said("station")


def test_udisks_refuses_who_may_not(desktop: Machine, slot: Slot, cards: Cards, mine: Path) -> None:
    desktop.start_udisks()
    slot.put(cards(64 * MIB))
    known(desktop, slot)
    done = piimg(desktop, mine, *flash(slot))
    assert done.returncode == 3, done.stderr
    assert f"{slot.node}: may not be opened by this user\n    run piimg with sudo" in done.stdout, done.stdout
    assert "Traceback" not in done.stderr
    assert start(slot.node) == bytes(HEAD)


def test_a_card_that_somebody_holds_is_refused_through_udisks_too(
    desktop: Machine, slot: Slot, cards: Cards, mine: Path
) -> None:
    """O_EXCL goes all the way."""
    desktop.start_udisks(*OPEN)
    slot.put(cards(64 * MIB))
    known(desktop, slot)
    handle = os.open(slot.node, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    try:
        done = piimg(desktop, mine, *flash(slot))
    finally:
        os.close(handle)
    assert (done.returncode, "is in use" in done.stdout) == (3, True), done.stdout + done.stderr
    assert start(slot.node) == bytes(HEAD)


def test_what_udisks_mounted_for_the_user_is_unmounted(
    desktop: Machine, slot: Slot, cards: Cards, mine: Path
) -> None:
    """By umount, which leaves it to udisks2."""
    desktop.start_udisks(*OPEN, *MOUNT)
    card = cards(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "CARD", card], check=True)
    slot.put(card)
    known(desktop, slot)
    as_user = ["setpriv", f"--reuid={ID}", f"--regid={ID}", "--clear-groups"]
    desktop.good(*as_user, "udisksctl", "mount", "--no-user-interaction", "-b", slot.node)
    assert slot.name in desktop.good("cat", "/proc/mounts")
    done = piimg(desktop, mine, *flash(slot))
    assert (done.returncode, " good\n" in done.stdout) == (0, True), done.stdout + done.stderr
    assert "unmounted first: /media/piimg/CARD" in done.stderr
    assert slot.name not in desktop.good("cat", "/proc/mounts")
    assert holds(slot, mine, "worker1")
