"""The gateway beside ufw and firewalld, as Debian has them."""

import re

import pytest

from imagebuilder.model import Release
from tests.integration.overlays import lans
from tests.integration.overlays.machines import Machine
from tests.system.gateway import place as places
from tests.system.gateway.place import Place

pytestmark = pytest.mark.gateway

UFW_RULES = "cat /etc/ufw/*.rules /var/lib/ufw/* 2>/dev/null || true"


def advice(said: str) -> list[str]:
    """What `piimg-gateway status` says is to be done."""
    return re.findall(r"do this: (.*)", said)


def test_ufw_lets_the_lan_through_and_keeps_nothing_of_it(place: Place, twin: Machine) -> None:
    for master in (place.master, twin):
        places.start_ufw(master)
    assert place.gateway("on").startswith("open, and passing: ")
    assert place.goes_out()
    assert place.leaks() == []
    for master in (place.master, twin):
        master.run("ufw", "reload")
    assert places.settled(place.goes_out)
    place.gateway("off")
    assert places.rules(place.master) == places.rules(twin)
    assert place.master.shell(UFW_RULES) == twin.shell(UFW_RULES)
    place.master.run("ufw", "reload")
    assert not place.goes_out() and place.leaks() == []


def test_ufw_keeps_the_workers_from_asking_and_status_says_what_to_do(place: Place) -> None:
    assert place.worker.run("with-internet", "true").stderr == ""
    places.start_ufw(place.master)
    place.master.shell("ss -K state established >/dev/null 2>&1 || true")
    refused = place.worker.run("with-internet", "true", ok=(69,), timeout=10)
    assert "does not answer on port 22" in refused.stderr and refused.stderr.count("\n") == 1
    said = place.gateway("status")
    assert "workers do not reach ssh here (port 22): stopped by table ip filter, chain INPUT" in said
    assert "workers do not reach time here (port 123): stopped by table ip filter, chain INPUT" in said
    for command in advice(said):
        place.master.shell(command.removeprefix("sudo "))
    assert place.status()["reachable"] == {"ssh": True, "time": True}
    assert place.worker.run("with-internet", "bash", "-c", lans.PROBE).stderr == ""


def test_firewalld_keeps_the_time_from_the_workers_and_status_says_what_to_do(place: Place) -> None:
    places.start_firewalld(place.master)
    assert place.status()["reachable"] == {"ssh": True, "time": False}
    [todo] = advice(place.gateway("status"))
    for command in todo.split("; "):
        place.master.shell(command.removeprefix("sudo "))
    assert place.status()["reachable"] == {"ssh": True, "time": True}
    place.master.run("firewall-cmd", "--reload")
    assert place.status()["reachable"] == {"ssh": True, "time": True}


def test_firewalld(place: Place) -> None:
    """Up to 1.3 (Bookworm) its table can be written; later it owns the table, and has to be asked itself."""
    places.start_firewalld(place.master)
    before = places.rules(place.master)
    said = place.gateway("on", ok=(0, 1))
    if place.release is Release.BOOKWORM:
        assert said.startswith("open, and passing: ") and place.goes_out()
        place.master.run("firewall-cmd", "--reload")
        assert places.settled(place.goes_out)
        place.gateway("off")
        assert places.rules(place.master) == before
        place.master.run("firewall-cmd", "--reload")
        assert not place.goes_out() and place.leaks() == []
        return
    assert re.match(r"open, but stopped by table inet firewalld, chain filter_\w+: do this: ", said)
    assert place.status()["passing"] is False and not place.goes_out()
    refused = place.worker.run("with-internet", "true", ok=(69,), timeout=10)
    assert "no worker reaches the internet: stopped by table inet firewalld, chain filter_" in refused.stderr
    assert refused.stderr.count("\n") == 1
    place.gateway("off")
    assert places.rules(place.master) == before

    for command in advice(said)[0].split("; "):
        place.master.shell(command.removeprefix("sudo "))
    assert place.gateway("on").startswith("open, and passing: ")
    assert place.goes_out()
    assert place.status()["reachable"] == {"ssh": True, "time": True}
    assert place.leaks() == []
    place.gateway("off")
    assert not place.goes_out() and place.leaks() == []
