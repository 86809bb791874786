"""What goes wrong around the gateway: a clear word in its status, and closed rather than open."""

import functools

import pytest

from tests.integration.overlays import lans
from tests.integration.overlays.machines import Machine, cable
from tests.system.gateway import place as places
from tests.system.gateway.place import Place

pytestmark = pytest.mark.gateway

SHUT_OUT = "open, but no worker reaches the internet"
EDITS = (
    "nft flush chain inet piimg_gateway from_lan",
    "nft insert rule inet piimg_gateway through accept",
    "nft add chain inet piimg_gateway mine",
    "nft delete table inet piimg_gateway",
    "nft 'add table inet piimg_gateway { flags dormant; }'",
    "nft flush table inet piimg_gateway",
)


@pytest.mark.parametrize("edit", EDITS)
def test_its_table_edited_by_somebody_is_put_right(place: Place, edit: str) -> None:
    places.forward_all(place.master)
    for word in ("off", "on"):
        place.gateway(word)
        before = _table(place)
        place.master.shell(edit)
        assert places.settled(functools.partial(_is, place, before)), word
        assert place.leaks() == []
        assert places.settled(place.goes_out, 2) is (word == "on")


def _table(place: Place) -> str:
    return place.master.shell("nft list table inet piimg_gateway", ok=None)


def _is(place: Place, table: str) -> bool:
    return _table(place) == table


def test_an_nft_that_fails_is_said_and_does_not_open(place: Place) -> None:
    places.forward_all(place.master)
    failing = b"#!/bin/sh\necho no such thing >&2\nexit 1\n"
    place.master.run("sh", "-c", "cat >/usr/local/sbin/nft; chmod +x /usr/local/sbin/nft", data=failing)
    said = place.gateway("on", ok=(1,))
    assert said.startswith("closed, but not as it should be: nft: no such thing\n"), said
    assert place.status()["problems"] == ["nft: no such thing"]
    refused = place.worker.run("with-internet", "true", ok=(69,), timeout=10)
    assert "no worker reaches the internet: nft: no such thing" in refused.stderr
    assert not place.goes_out() and place.leaks() == []
    place.master.shell("rm /usr/local/sbin/nft")
    assert places.settled(place.goes_out, 2)  # it was switched on, and goes on trying
    assert place.gateway("off").startswith("closed\n")


def test_rules_that_nft_does_not_understand_are_nobodys_obstacle(place: Place) -> None:
    """Extensions of iptables that nft only shows as a comment, in both iptables."""
    for program in ("iptables-nft", "iptables-legacy"):
        place.master.shell(
            f"{program} -A FORWARD -m string --algo bm --string x -m length --length 9999 -j DROP;"
            f"{program} -A FORWARD -m recent --name r --rcheck -j DROP"
        )
    before = places.rules(place.master)
    assert place.gateway("on").startswith("open, and passing: ")
    assert place.goes_out()
    place.gateway("off")
    assert places.rules(place.master) == before


@pytest.mark.parametrize("full", ["bytes", "inodes"])
def test_a_full_run(place: Place, full: str) -> None:
    """Without room for a byte all is as ever; without room for a file, it comes back closed after a crash."""
    places.forward_all(place.master)
    limit = "size=64k" if full == "bytes" else "nr_inodes=$(df --output=iused /run | tail -n 1 | tr -d ' ')"
    place.master.shell(f"mount -o remount,{limit} /run")
    assert place.master.run("sh", "-c", "head -c 1M /dev/zero >/run/filler", ok=None).returncode != 0
    assert place.gateway("on").startswith("open, and passing: ")
    assert place.goes_out()
    said = place.gateway("status")
    assert ("No space left on device: what was switched is forgotten" in said) is (full == "inodes"), said
    place.master.shell("kill -KILL $(cat /run/piimg-gateway/watch.pid)")
    with places.service(place.master):
        assert places.settled(lambda: place.goes_out() is (full == "bytes"))
        place.gateway("off")
        assert not place.goes_out() and place.leaks() == []


def test_an_uplink_that_comes_and_goes(place: Place, twin: Machine) -> None:
    addresses = "ip address add 203.0.113.2/24 dev wlan0; ip route add default via 203.0.113.1"
    place.gateway("on")
    place.master.shell("ip link set wlan0 down")
    assert place.gateway("status").startswith(f"{SHUT_OUT}: the uplink wlan0 is down\n")
    place.master.shell("ip link delete wlan0")
    assert place.gateway("status").startswith(f"{SHUT_OUT}: the uplink wlan0 is not there\n")
    cable(place.master, "wlan0", place.uplink, "port")
    assert place.gateway("status").startswith(f"{SHUT_OUT}: the uplink wlan0 has no route out\n")
    place.uplink.shell(f"ip address add {lans.OUTSIDE}/24 dev port")
    place.master.shell(addresses)
    assert places.settled(place.goes_out, 2)
    assert place.gateway("status").startswith("open, and passing: ")
    place.gateway("off")
    assert place.leaks() == [] and not place.goes_out()
    assert places.rules(place.master) == places.rules(twin)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        ("s/^POLICY=.*/POLICY='onn'/", "POLICY must be off, on or on-demand, not 'onn'"),
        ("s/^LAN=.*/LAN='10.0.0.0-24'/", "LAN: "),
        ("s/^UPLINK=.*/UPLINK=''/", "UPLINK must be the name of an interface"),
        ("s/^UPLINK=.*/UPLINK='w\"; accept'/", "UPLINK must be the name of an interface"),
        ("s/^LAN_INTERFACE=.*/LAN_INTERFACE=wlan0/", "LAN_INTERFACE and UPLINK are the same"),
        ("s/^POLICY=/INSIDE='*'\\nPOLICY=/", "INSIDE: '*' is not the name"),
        ("s/^LAN=.*/LAN='10.0.0.0/", "line 4: "),
    ],
)
def test_settings_that_are_wrong_close_it(place: Place, edit: str, word: str) -> None:
    places.forward_all(place.master)
    place.gateway("on")
    place.master.run("sed", "-i", edit, "/etc/piimg/gateway.conf")
    assert word in place.master.run("piimg-gateway", "status", ok=(0, 1)).stdout
    closes = "INSIDE" not in word
    assert place.goes_out() is not closes and place.leaks() == []
    if closes:
        refused = place.master.run("piimg-gateway", "on", ok=(1,)).stderr
        assert refused.startswith("piimg-gateway: refused: /etc/piimg/gateway.conf: ") and word in refused


def test_nothing_goes_by_the_clock() -> None:
    """A clock that jumps cannot matter to a program that never reads it."""
    sources = list(places.PROGRAM.glob("*.py"))
    assert len(sources) > 8
    for source in sources:
        text = source.read_text()
        assert "time.time(" not in text and "datetime" not in text and "localtime" not in text, source
