"""The shipped udev rules and systemd unit, as docs/station.md has them set up, under a real systemd."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.card.running import TOP
from tests.system.station.disk import CLUSTER
from tests.system.station.guest import Guest, seat
from tests.system.station.test_flash import judged

pytestmark = [pytest.mark.timeout(1800, func_only=True), pytest.mark.station]  # the guest takes its own time

SOURCES = "/root/piimg"
UNIT = "/etc/systemd/system/piimg-station.service"
LOG = "journalctl --no-pager --output=cat --unit=piimg-station"


def commands() -> tuple[list[str], list[str]]:
    """The commands of docs/station.md that set a station up, and those that start it."""
    section = (TOP / "docs" / "station.md").read_text("utf-8").partition("## With nobody there")[2]
    found = re.findall(r"^    (sudo .*)$", section.partition("\n## ")[0], re.MULTILINE)
    setup = [one for one in found if "useradd" in one or " cp " in one]
    start = [one for one in found if "udevadm" in one or "systemctl" in one]
    assert len(setup) == 3 and len(start) == 3, found
    return setup, start


def log_has(guest: Guest, *wanted: str) -> None:
    """Wait until one line of the station's journal has all of these."""
    there = " | ".join([LOG, *(f"grep -F -- {shlex.quote(one)}" for one in wanted)])
    done = guest.run(f"timeout 600 sh -c {shlex.quote(f'until {there}; do sleep 1; done')}", patience=700)
    assert done.returncode == 0, guest.good(LOG)


@pytest.fixture
def station(guest: Guest) -> Iterator[Guest]:
    """A guest with the station set up and started, as the document says."""
    setup, start = commands()
    try:
        guest.good(f"cd {SOURCES}; " + "; ".join(setup))
        guest.good(f"sed -i 's/^ExecStart=.* station/& --images build/' {UNIT}")  # there is no base image
        guest.good(f"chown -R piimg:piimg {CLUSTER}")
        guest.good(f"cd {SOURCES}; " + "; ".join(start))
        yield guest
    finally:
        guest.run("systemctl disable --now piimg-station")
        guest.run("rm -f /etc/udev/rules.d/70-piimg-station.rules /etc/systemd/system/piimg-station.service")
        guest.run(
            f"systemctl daemon-reload; udevadm control --reload; chown -R root:root {CLUSTER}; userdel piimg"
        )
        guest.run("journalctl --rotate; journalctl --vacuum-time=1s")


def test_the_shipped_unit_and_rules(station: Guest, tmp_path: Path) -> None:
    """It writes what is put into its two slots, as a user without any right but to these; no other card."""
    log_has(station, "put in a card")
    first, second, foreign = station.card(), station.card(), station.card()
    other = station.plug(foreign, 5, serial="OTHER")
    mine = station.plug(first, "1.1", serial="FIRST")
    assert (mine.slot, station.good(f"stat -c '%G %a' {mine.node}").split()) == (
        "usb 1-1.1",
        ["piimg", "660"],
    )
    log_has(station, "usb 1-1.1", "good: take it out, and label it master")
    also = station.plug(second, "1.2", serial="SECOND")
    log_has(station, "usb 1-1.2", "good: take it out, and label it worker1")
    process = station.good("systemctl show --property=MainPID --value piimg-station").strip()
    assert station.good(f"ps -o user= -p {process}").strip() == "piimg"
    assert station.good(f"grep CapEff /proc/{process}/status").split()[1].strip("0") == ""
    assert station.good(f"stat -c %G {other.node}").strip() != "piimg"
    assert not any(foreign.start())
    udisks = station.good(f"udevadm info --query=property {also.node}")
    assert "UDISKS_IGNORE=1" in udisks and "SYSTEMD_WANTS=piimg-station.service" in udisks
    # It is stopped and started again: what is done stays done, and a card that is put back is known.
    station.good("systemctl restart piimg-station")
    log_has(station, "worker1 is done")
    station.pull(mine)
    mine = station.plug(first, "1.1", serial="FIRST")
    log_has(station, "usb 1-1.1", "it holds master, which is done")
    station.good("systemctl stop piimg-station")
    assert station.good("systemctl show --property=Result --value piimg-station").strip() == "success"
    judged(station, first, "master", tmp_path)
    judged(station, second, "worker1", tmp_path)


def test_at_a_terminal_with_every_slot_there_is(guest: Guest, tmp_path: Path) -> None:
    """Readers and cards that come while it runs are seen by what udev tells; what was there is left alone."""
    before = guest.card()
    kept = guest.plug(before, 3, serial="BEFORE")
    with seat(guest, "station") as one:
        one.see("Start? [y/N]")
        one.type("y\n")
        one.see(kept.slot, "it was here before the station started")
        first, second = guest.card(), guest.card()
        slot = guest.insert(0, first)
        one.see(slot.slot, "good: take it out, and label it master")
        guest.take(0)
        empty = re.compile(rf"{slot.slot} +put in a card")
        one.window.wait_for(lambda lines: any(map(empty.match, lines)), 600)
        reader = guest.plug(second, 6, serial="NEW")
        one.see(reader.slot, "good: take it out, and label it worker1")
        one.type("\x03")
        status, said = one.end()
    assert status == 130, said
    assert not any(before.start())
    judged(guest, first, "master", tmp_path)
    judged(guest, second, "worker1", tmp_path)
