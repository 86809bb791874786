"""Powering a card down: never anything else, and never at the cost of what is on it.

That a USB reader lets its card go can only be seen on a reader; what is refused can be seen anywhere.
"""

import errno
import json
import os
from dataclasses import replace

import pytest

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.rounds import came_back
from imagebuilder.cli.flashing import _power_down
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.session import Session
from imagebuilder.device.discovery import Disk, disk_at, disk_from
from imagebuilder.device.eject import power_down
from imagebuilder.device.identity import NOTHING, Carried
from imagebuilder.device.inventory import Candidate
from imagebuilder.errors import PiimgError
from imagebuilder.system import blockdev
from imagebuilder.system.eject import stop_unit
from tests.integration.card.test_rounds import no_more_files
from tests.support.checkout import DEVICES


def recorded(name: str) -> Disk:
    record = json.loads((DEVICES / f"{name}.json").read_text())
    return disk_from(record["properties"], record["attributes"])


@pytest.mark.parametrize("name", ["usb-reader", "usb-reader-slot1", "usb-reader-without-udev"])
def test_a_disk_that_is_another_one_now_is_left_alone(name: str) -> None:
    with pytest.raises(PiimgError, match="another card now"):
        power_down(recorded(name))


def test_a_card_in_a_built_in_slot_cannot_be_powered_down() -> None:
    with pytest.raises(PiimgError, match="a built-in slot cannot") as raised:
        power_down(recorded("laptop-slot"))
    assert "take it out" in raised.value.hint


def test_a_loop_device_is_not_detached(card: Disk) -> None:
    with pytest.raises(PiimgError, match="detach it with losetup"):
        power_down(card)
    assert disk_at(card.node) == card


def test_a_device_that_knows_no_stop_says_so_and_keeps_what_it_has(card: Disk) -> None:
    with card.node.open("wb") as stream:
        stream.write(b"precious")
    with blockdev.opened(card.node, write=False) as handle, pytest.raises(OSError):
        stop_unit(handle)
    assert disk_at(card.node) == card
    with card.node.open("rb") as stream:
        assert stream.read(8) == b"precious"


def test_a_card_that_shows_up_again_is_known_by_slot_size_and_node() -> None:
    disk = recorded("usb-reader")
    named = (str(disk.node), disk.slot, disk.model, disk.serial)
    good = CardReport(*named, disk.size, "worker1", "worker1.img", Verdict.GOOD)
    again = Candidate(replace(disk, diskseq=99), (), Carried("worker1", "picluster"), ())
    assert came_back(again, [good])
    assert not came_back(again, [])
    assert came_back(again, [replace(good, verdict=Verdict.UNVERIFIED)])
    assert not came_back(again, [replace(good, verdict=Verdict.BAD)])
    assert not came_back(again, [replace(good, serial="of another card")])
    assert not came_back(again, [replace(good, slot="usb 9-9")])
    for other in (
        replace(again, carried=Carried("worker2", "picluster")),
        replace(again, carried=NOTHING),
        replace(again, disk=replace(disk, size=disk.size * 2)),
    ):
        assert not came_back(other, [good])


def test_trouble_of_the_host_costs_no_verdict(capfd: pytest.CaptureFixture[str]) -> None:
    disk = recorded("usb-reader")
    with os.fdopen(os.dup(2), "w") as stream, no_more_files():
        _power_down(Session(Plain(stream)), [disk])
    assert f"is not powered down: {os.strerror(errno.EMFILE)}" in capfd.readouterr().err
