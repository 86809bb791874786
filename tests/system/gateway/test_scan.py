"""From the uplink nobody gets in: a scan by a host there that has a route to the LAN."""

import pytest

from tests.integration.overlays import lans
from tests.system.gateway import place as places
from tests.system.gateway.place import Place

pytestmark = pytest.mark.gateway

_SCAN = """
import socket, sys
PORTS = [*range(1, 1025), 2375, 3128, 5000, 6443, 8000, 8080, 8081, 10250, 64911]
for host in sys.argv[1:]:
    pending = []
    for port in PORTS:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((host, port))
        pending.append(sock)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"x", (host, port))
"""
# What comes back to the scanner, whoever says it: from an address of the LAN, or about one.
_SEEN = """
table ip seen {
    chain i {
        type filter hook input priority -500;
        ip saddr 10.0.0.0/24 counter
        icmp type { destination-unreachable, time-exceeded, redirect } counter
    }
}
"""

_POSED = """
table ip seen {
    chain i {
        type filter hook input priority 0;
        iifname "wlan0" ip saddr 10.0.0.0/24 counter
    }
}
"""


@pytest.mark.parametrize("word", ["off", "on"])
def test_a_scan_sees_nothing(place: Place, word: str) -> None:
    places.forward_all(place.master)
    place.gateway(word)
    place.uplink.run("nft", "-f", "-", data=_SEEN.encode())
    place.uplink.run("python3", "-c", _SCAN, places.WORKER, places.MASTER, "10.0.0.254")
    for host in (places.WORKER, places.MASTER, "10.0.0.255"):
        place.uplink.run("ping", "-b", "-c2", "-i0.2", "-W1", host, ok=(1, 2))
    seen = place.uplink.shell("nft list table ip seen")
    assert seen.count("packets 0 ") == 2, seen
    assert place.leaks() == []
    if word == "on":  # what the LAN began is answered
        assert place.goes_out()
        assert place.worker.run("ping", "-c1", "-W1", lans.OUTSIDE)


def test_nobody_outside_poses_as_the_lan(place: Place) -> None:
    """A host out there with a worker's address reaches nothing on the master: not ssh, not the time."""
    place.master.shell("sysctl -q net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.wlan0.rp_filter=0")
    place.master.run("nft", "-f", "-", data=_POSED.encode())
    place.uplink.shell("ip address add 10.0.0.12/32 dev lo")
    for word in ("off", "on"):
        place.gateway(word)
        for host in ("203.0.113.2", places.MASTER):
            place.uplink.run("ping", "-I", "10.0.0.12", "-c1", "-W1", host, ok=(1,))
            place.uplink.shell(f"echo x | nc -u -w1 -s 10.0.0.12 {host} 123", ok=None)
    assert "packets 0 " in place.master.shell("nft list table ip seen")


@pytest.mark.parametrize("word", ["off", "on"])
def test_a_connection_begun_from_outside_ends(place: Place, word: str) -> None:
    """Begun while somebody had flushed all rules, and the service was not there to see it."""
    places.forward_all(place.master)
    place.gateway(word)
    place.master.shell("kill -STOP $(cat /run/piimg-gateway/watch.pid); nft flush ruleset")
    with places.standing(place.uplink, place.worker, places.WORKER) as passes:
        assert passes()
        place.master.shell("kill -CONT $(cat /run/piimg-gateway/watch.pid)")
        assert places.settled(lambda: not passes())
        assert place.leaks() == [] and not passes()
