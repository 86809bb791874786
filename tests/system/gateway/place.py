"""A master among other people's rules, a worker, and the uplink's network: machines with their own Debian.

What decides about packets there is the real thing: Debian's dockerd, ufw, firewalld, iptables and nft.
"""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.model import Release
from tests.integration.overlays import lans, rendered
from tests.integration.overlays.machines import Machine, cable, machine
from tests.support.checkout import TOP
from tests.support.waiting import happens, wait_until

PROGRAM = TOP / "overlays/master/root/usr/local/lib/piimg/piimg_gateway"
WORKER, MASTER = "10.0.0.11", "10.0.0.1"
WORKER6, OUTSIDE6 = "fd00::11", "2001:db8::1"
_FORWARD_ALL = "for all in /proc/sys/net/ipv[46]/conf/all/forwarding; do echo 1 >$all; done"


@dataclass(frozen=True)
class Place:
    """The running machines; the one on the uplink has a route to the LAN, and wants in."""

    uplink: Machine
    master: Machine
    worker: Machine
    release: Release

    def gateway(self, *words: str, ok: tuple[int, ...] = (0,)) -> str:
        """`piimg-gateway` on the master, and what it said."""
        return self.master.run("piimg-gateway", *words, ok=ok).stdout

    def status(self) -> dict[str, object]:
        """What the gateway says of itself."""
        found: dict[str, object] = json.loads(
            self.master.run("piimg-gateway", "status", "--json", ok=(0, 1)).stdout
        )
        return found

    def goes_out(self) -> bool:
        """Whether a new connection of the worker gets out."""
        return lans.reaches(self.worker)

    def leaks(self) -> list[str]:
        """Which new connections pass though they must not: from outside, and of IPv6 either way."""
        tries = {
            "in": (self.uplink, WORKER, 8081),
            "in to the master's address": (self.uplink, MASTER, 22),
            "IPv6 in": (self.uplink, WORKER6, 8081),
            "IPv6 out": (self.worker, OUTSIDE6, 8080),
        }
        return [name for name, (there, host, port) in tries.items() if connects(there, host, port)]


def connects(there: Machine, host: str, port: int) -> bool:
    """Whether a TCP connection comes about within half a second."""
    command = f"exec 3<>/dev/tcp/{host}/{port}"
    return there.run("timeout", "0.5", "bash", "-c", command, ok=None).returncode == 0


@contextlib.contextmanager
def place(system: Path, release: Release, folder: Callable[[str], Path]) -> Iterator[Place]:
    """The machines with the gateway's service running, closed."""
    with contextlib.ExitStack() as stack:
        uplink = stack.enter_context(machine("uplink", folder("uplink"), system))
        worker = stack.enter_context(machine("worker1", folder("worker1"), system))
        master = stack.enter_context(alone(system, release, folder("master"), uplink))
        cable(master, "port1", worker, "eth0")
        master.shell("ip link set port1 master eth0")
        worker.shell(
            f"ip address add {WORKER}/24 dev eth0; ip route add default via {MASTER};"
            f"ip address add {WORKER6}/64 dev eth0 nodad; ip route add default via fd00::1"
        )
        worker.install(rendered.node_plan("worker1", release))
        uplink.shell("ip route add 10.0.0.0/24 via 203.0.113.2; ip route add fd00::/64 via 2001:db8::2")
        for there, port in ((uplink, 8080), (worker, 8081)):
            stack.enter_context(there.running("python3", "-m", "http.server", "--bind", "::", str(port)))
        stack.enter_context(master.running("/usr/sbin/sshd", "-D", "-e"))
        stack.enter_context(service(master))
        wait_until(lambda: connects(master, WORKER, 8081) and connects(master, lans.OUTSIDE, 8080))
        wait_until(lambda: connects(worker, MASTER, 22))
        yield Place(uplink, master, worker, release)


@contextlib.contextmanager
def alone(system: Path, release: Release, folder: Path, uplink: Machine | None = None) -> Iterator[Machine]:
    """A master without its gateway running; without an ``uplink`` it is plugged in nowhere."""
    with machine("master", folder, system) as master:
        if uplink:
            cable(master, "wlan0", uplink, "port")
            addresses = (
                f"ip address add {lans.OUTSIDE}/24 dev port; ip address add {OUTSIDE6}/64 dev port nodad"
            )
            uplink.shell(addresses)
        else:
            master.shell("ip link add wlan0 type veth peer name nowhere; ip link set wlan0 up")
        master.shell(
            "ip link add eth0 type bridge; ip link set eth0 up; ip address add 10.0.0.1/24 dev eth0;"
            "ip address add fd00::1/64 dev eth0 nodad; ip address add 203.0.113.2/24 dev wlan0;"
            "ip address add 2001:db8::2/64 dev wlan0 nodad; ip route add default via 203.0.113.1"
        )
        master.install(rendered.node_plan("master", release))
        master.shell("systemd-sysusers piimg-gateway.conf; ssh-keygen -A")
        yield master


@contextlib.contextmanager
def service(master: Machine) -> Iterator[subprocess.Popen[bytes]]:
    """The gateway's service, as its unit starts it."""
    with master.running("/usr/local/sbin/piimg-gateway", "watch") as process:
        wait_until(lambda: master.run("test", "-S", "/run/piimg-gateway/socket", ok=None).returncode == 0)
        yield process


def forward_all(there: Machine) -> None:
    """What others do: have the kernel forward everything, of both families."""
    there.shell(_FORWARD_ALL)


def rules(master: Machine) -> str:
    """All rules but the gateway's own, without counters, of nftables and iptables; and what forwards."""
    return master.shell(
        "nft list tables | grep -v piimg_gateway | while read -r one; do nft -s list $one; done;"
        "for f in /proc/net/ip*_tables_names; do cat $f; done; iptables-legacy-save | grep -v '^[:#]';"
        "grep -r . /proc/sys/net/ipv[46]/conf/{all,default,eth0,wlan0}/forwarding"
    )


# --- the programs -------------------------------------------------------------------------------------------


def start_docker(master: Machine) -> None:
    """Start dockerd, and wait until it serves."""
    assert try_docker(master), master.shell("tail -n 20 /run/dockerd.log")


def try_docker(master: Machine) -> bool:
    """Start dockerd, and wait until it serves or has ended; whether it serves."""
    start = "dockerd --storage-driver vfs --shutdown-timeout 1 >>/run/dockerd.log 2>&1 </dev/null & echo $!"
    pid = master.shell(start).strip()

    def serves() -> bool:
        return master.run("docker", "info", ok=None).returncode == 0

    wait_until(lambda: serves() or master.run("kill", "-0", pid, ok=None).returncode != 0, 30)
    return serves()


def stop_docker(master: Machine) -> None:
    """Stop dockerd, and wait until it has gone."""
    pid = master.shell("cat /run/docker.pid").strip()
    master.run("kill", pid)
    wait_until(lambda: master.run("kill", "-0", pid, ok=None).returncode != 0, 20)


def run_container(master: Machine) -> None:
    """Run a container called box1 on Docker's default network."""
    master.shell(
        "mkdir -p /run/image/bin; cp /bin/busybox /run/image/bin;"
        "tar -C /run/image -c . | docker import - box;"
        "docker run --detach --name box1 box /bin/busybox sleep 10000"
    )


def container_reaches(master: Machine, host: str) -> bool:
    """Whether the container gets an answer to a ping."""
    ping = ("docker", "exec", "box1", "/bin/busybox", "ping", "-c1", "-W1", host)
    return master.run(*ping, ok=None).returncode == 0


def start_ufw(master: Machine) -> None:
    """Enable ufw as it comes."""
    master.run("ufw", "--force", "enable")


def start_firewalld(master: Machine) -> None:
    """Start firewalld, and wait until it serves."""
    if not master.pids("dbus-daemon"):
        master.shell("mkdir -p /run/dbus; dbus-daemon --system --fork")
    master.shell("firewalld --nofork >>/run/firewalld.log 2>&1 </dev/null &")
    wait_until(lambda: master.run("firewall-cmd", "--state", ok=None).returncode == 0, 30)


def stop_firewalld(master: Machine) -> None:
    """Stop firewalld, which removes its rules."""
    master.run("kill", *map(str, master.pids("firewalld")))
    wait_until(lambda: not master.pids("firewalld"))


# --- a connection that stands -------------------------------------------------------------------------------

_ECHO = """
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
with Server(("", 7), Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
_STANDING = """
import socket, sys
sock = socket.create_connection((sys.argv[1], 7), 5)
sock.settimeout(0.6)
print("stands", flush=True)
for line in sys.stdin:
    try:
        sock.sendall(line.encode())
        print("passes" if sock.recv(100) else "ended", flush=True)
    except OSError:
        print("nothing", flush=True)
"""


@contextlib.contextmanager
def standing(there: Machine, here: Machine, host: str = lans.OUTSIDE) -> Iterator[Callable[[], bool]]:
    """A connection from ``there`` to ``here``, and a function that says whether it still passes."""
    with here.running("python3", "-c", _ECHO) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        with there.running("python3", "-c", _STANDING, host) as client:
            assert client.stdin is not None and client.stdout is not None
            stdin, stdout = client.stdin, client.stdout
            assert stdout.readline() == b"stands\n"

            def passes() -> bool:
                stdin.write(b"x\n")
                stdin.flush()
                return stdout.readline() == b"passes\n"

            yield passes


def settled(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something becomes true soon, also on a busy machine."""
    return happens(condition, seconds)
