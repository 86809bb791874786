"""A master with Docker, and one with ufw, booted with a worker as `piimg boot --all` does it.

All checks are good, and a container on the master has its network whatever the gateway is. Then, on the same
nodes, what no namespace can show: somebody's flowtable, which carries connections past all rules, and a clock
that jumps.
"""

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.boot import gateway_checks
from imagebuilder.boot.cluster import ClusterProof, prove_cluster
from imagebuilder.boot.cluster_checks import Member
from imagebuilder.boot.gateway_checks import Scene
from imagebuilder.boot.network import GREETING, INTERNET, INTERNET_PORT, Service
from imagebuilder.boot.run import guest, node_disk
from tests.conftest import SCRIPTS
from tests.support.cluster import Place, make_place
from tests.system.boot.rig import expected, laboratory

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.boot_gateway,
]  # the first test of each waits for all that is booted

RELEASE = "bookworm"
NODES = ("master", "worker1")
WORKER = "10.0.0.11"
ECHO = 7  # a port of the host that stands for the internet: what is sent there comes back
_WHILE = 4  # seconds in which a connection that passes is seen to
_LEAVING = 3  # seconds in emulation until a connection has left its flowtable; the kernel looks each second
_SWITCHED = 60  # seconds the gateway is switched on for

# What the master has besides: the ready layer docker, or ufw; and what its user does, as a first-boot script.
DOCKER = """#!/bin/sh
set -eu
mkdir -p /run/image/bin
cp /bin/busybox /run/image/bin
tar -C /run/image -c . | docker import - box
docker rm --force box || : # of a try before
docker run --detach --restart always --name box box /bin/busybox sleep 1000000
sync # the power is cut once it is checked
"""
UFW = """#!/bin/sh
set -eu
ufw allow in on eth0 to any port 22 proto tcp
ufw allow in on eth0 to any port 123 proto udp
ufw --force enable
sync
"""
OTHERS = {
    "docker": ('layers = ["docker", "others"]', DOCKER),
    "ufw": ('layers = ["others"]\npackages = ["ufw"]', UFW),
}


@dataclass(frozen=True)
class Booted:
    """What came of the checks, and both nodes, which are still up."""

    proof: ClusterProof
    scene: Scene

    def said(self, command: str) -> str:
        """What a shell command on the master prints; it must succeed."""
        status, said = self.scene.gateway.said(command)
        assert status == 0, (command, status, said)
        return said

    def rules(self) -> str:
        """All rules of the others, as iptables lists them."""
        return self.said("sudo iptables-save | sed 's/ \\[[0-9:]*\\]$//; /^#/d'")


def laid_out(folder: Path, keys: str, script: str) -> Place:
    """A built cluster of a master and a worker; the master has ``keys`` in the manifest, and a script."""
    place = make_place(folder, folder / "cache")
    place.edit(r'^(name = "master")$', rf"\1\n{keys}")
    text = place.manifest.read_text()
    place.manifest.write_text(text[: text.index('[[node]]\nname = "worker2"')])
    scripts = place.folder / "overlays/others/firstboot.d"
    scripts.mkdir(parents=True)
    (scripts / "20-others").write_text(script)
    base = folder / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", RELEASE, base], check=True)
    place.good("build", "--all", "--base", base)
    base.unlink()  # gigabytes, as is what the cache keeps of it
    shutil.rmtree(place.cache)
    return place


@contextmanager
def booted(place: Place) -> Iterator[Booted]:
    """Both nodes booted and checked, and up again after the power cut that ends the checks."""
    wanted = {name: expected(place, name, RELEASE) for name in NODES}
    with ExitStack() as stack:
        lab = stack.enter_context(laboratory(place, NODES, services=(Service(ECHO, "cat"),)))
        nodes = [lab.cluster.node(name) for name in NODES]
        disks = [node_disk(lab, node, place.build / f"{node.name}.img") for node in nodes]
        guests = [stack.enter_context(guest(lab, *one)) for one in zip(nodes, disks, strict=True)]
        begun = time.monotonic()
        proof = prove_cluster(lab, guests, wanted)
        print(f"booted and checked in {time.monotonic() - begun:.0f} s")
        master, worker = (Member(wanted[one.node.name], one.login) for one in guests)
        yield Booted(proof, Scene(master, worker, INTERNET, INTERNET_PORT))


def bad(proof: ClusterProof) -> list[str]:
    """What the checks found wrong, or could not judge."""
    nodes = [(node.node, each) for node in proof.nodes for each in node.outcomes]
    every = [*nodes, *(("all", one) for one in proof.together)]
    return [f"{where}: {one.check}: {one.wrong or one.remark}" for where, one in every if not one.good]


@pytest.fixture(scope="module", params=OTHERS)
def others(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """The master with each of them, one after the other."""
    with booted(laid_out(tmp_path_factory.mktemp(request.param), *OTHERS[request.param])) as found:
        yield found


def test_all_checks_are_good(others: Booted) -> None:
    assert bad(others.proof) == []
    assert {one.check for one in others.proof.together} >= gateway_checks.ABOUT.keys()
    found = json.loads(others.said("sudo piimg-gateway status --json"))
    assert found["reachable"] == {"ssh": True, "time": True}


def test_open_and_closed_the_others_have_what_they_had(others: Booted) -> None:
    """Docker's container its network, and both their rules, byte for byte."""
    runs_docker = "DOCKER-USER" in others.rules()
    before = others.rules()
    assert runs_docker or "ufw-user-forward" in before
    for word, opens in (("on", True), ("off", False)):
        others.said(f"sudo piimg-gateway {word}")
        assert others.scene.gets_out() is opens
        if runs_docker:
            for host, port, answer in ((INTERNET, INTERNET_PORT, GREETING), (WORKER, 22, "SSH-2.0")):
                assert answer in others.said(f"sudo docker exec box /bin/busybox nc -w 20 {host} {port}"), (
                    word
                )
    assert others.rules() == before


# --- flowtables ---------------------------------------------------------------------------------------------

# A network behind a third interface of the master, and a flowtable of somebody's. The chain's counter sees
# what the flowtable does not carry.
FAST = """set -e
ip netns add far
ip link add other0 type veth peer name far0 netns far
ip link set other0 up
ip address add 192.168.9.1/24 dev other0
ip address add 2001:db8::1/64 dev other0 nodad
ip -n far link set far0 up
ip -n far address add 192.168.9.2/24 dev far0
ip -n far address add 2001:db8::2/64 dev far0 nodad
ip -n far route add default via 192.168.9.1
ip -n far route add default via 2001:db8::1
ip address add fd00::1/64 dev eth0 nodad
nft -f - <<END
table inet fast {
    flowtable f {
        hook ingress priority 0
        devices = { eth0, wlan0, other0 }
    }
    chain c {
        type filter hook forward priority 0
        ct state established counter flow add @f
    }
}
END
"""
ALL_AWAY = """
sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv6.conf.all.forwarding=1
iptables -P FORWARD ACCEPT
ip6tables -P FORWARD ACCEPT
kill -STOP $(cat /run/piimg-gateway/watch.pid)
nft delete table inet piimg_gateway
"""
ECHO_SERVER = """
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    address_family = 10
Server(("::", 7), Echo).serve_forever()
"""
# On the worker: sends a line, waits for it to come back, and counts.
STANDING = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], 7), 20)
for count in range(100000):
    sock.sendall(b"x" + bytes([10]))
    assert sock.recv(100)
    with open("/tmp/count", "w") as stream:
        stream.write(str(count))
    time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def fast(others: Booted) -> Booted:
    """The master with a flowtable."""
    others.said(f"sudo sh -c {shlex.quote(FAST)}")
    _start(others.scene.gateway, f"sudo ip netns exec far python3 -c {shlex.quote(ECHO_SERVER)}")
    status, said = others.scene.worker.said(
        "sudo ip address add fd00::11/64 dev eth0 nodad; sudo ip route add 2001:db8::/64 via fd00::1"
    )
    assert status == 0, said
    return others


def _start(there: Member, command: str) -> None:
    """Run a command on a node that nobody waits for."""
    status, said = there.said(f"setsid {command} >/dev/null 2>&1 </dev/null & sleep 1")
    assert status == 0, said


@contextmanager
def carried(fast: Booted, host: str) -> Iterator[Callable[[], bool]]:
    """A connection of the worker that the flowtable carries; whether it still passes."""
    worker = fast.scene.worker

    def count() -> int:
        return int(worker.said("cat /tmp/count 2>/dev/null")[1] or -1)

    def unseen() -> tuple[int, int]:
        """How many lines came back in seconds, and how many packets the chain saw meanwhile."""
        before = count(), _packets(fast)
        time.sleep(_WHILE)
        seen = _packets(fast) - before[1]
        return count() - before[0], seen

    worker.said("rm -f /tmp/count")
    _start(worker, f"python3 -c {shlex.quote(STANDING)} {host}")
    try:
        deadline = time.monotonic() + 60
        while (found := unseen())[0] < 2 or found[1]:
            assert time.monotonic() < deadline, f"the flowtable does not carry it: {found}"
        yield lambda: unseen()[0] > 0
    finally:
        worker.said("pkill --full [s]ock.recv")


def _packets(fast: Booted) -> int:
    found = re.search(r"counter packets (\d+)", fast.said("sudo nft list chain inet fast c"))
    assert found
    return int(found[1])


def test_closing_ends_what_a_flowtable_carries(fast: Booted) -> None:
    """By the end of a hold: a command sends probes, whose device has the kernel look for routes anew."""
    _start(fast.scene.gateway, "sudo sh -c 'sleep 9999 | piimg-gateway hold'")
    with carried(fast, str(INTERNET)) as passes:
        fast.said("sudo pkill --full '^sleep 9999'")
        time.sleep(_LEAVING)
        assert not passes()
    assert not fast.scene.is_open()


@pytest.mark.parametrize("host", ["192.168.9.2", "2001:db8::2"])
def test_what_began_while_all_rules_were_away_ends(fast: Booted, host: str) -> None:
    """Closed, of either family: once the table is back it is in no way of what a flowtable carries."""
    fast.said("sudo piimg-gateway off --now")
    go_on = "sudo sh -c 'kill -CONT $(cat /run/piimg-gateway/watch.pid)'"
    with ExitStack() as stack:
        stack.callback(fast.said, go_on)
        fast.said(f"sudo sh -c {shlex.quote(ALL_AWAY)}")
        passes = stack.enter_context(carried(fast, host))
        fast.said(go_on)
        time.sleep(_LEAVING)
        assert not passes()


# --- the clock ----------------------------------------------------------------------------------------------


def test_a_clock_that_jumps(others: Booted) -> None:
    """Switched on for a time, it is open for that time, whatever the clock says meanwhile."""
    others.said(f"sudo piimg-gateway on --for {_SWITCHED}s")
    begun = time.monotonic()
    for jump in ("5 years", "10 years ago", "1 hour"):
        before = int(others.said("date +%s"))
        others.said(f"sudo date --set {shlex.quote(jump)}")
        assert abs(int(others.said("date +%s")) - before) > 3000
        time.sleep(1.5)  # it looks after itself once a second
        found = json.loads(others.said("sudo piimg-gateway status --json"))
        assert found["open"] and 0 < found["seconds_left"] < _SWITCHED, jump
    assert others.scene.gets_out()
    assert others.scene.leaks(_SWITCHED + 10) == ""
    assert time.monotonic() - begun > _SWITCHED
    others.said(f"sudo date --set @{time.time():.0f}")
