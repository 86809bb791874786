"""A cluster of machines: an uplink, the master and two workers, with what tests ask of them."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.integration.overlays.machines import Machine
from tests.support.waiting import wait_until

OUTSIDE = "203.0.113.1"  # RFC 5737: an address for documentation, here the one host of the "internet"
PROBE = f"exec 3<>/dev/tcp/{OUTSIDE}/8080"

OUTSIDE6 = "2001:db8::1"  # RFC 3849: for documentation
PROBE6 = f"exec 3<>/dev/tcp/{OUTSIDE6}/8080"
NET6, MASTER6, WORKER6 = "fd12:3456:789a:1::/64", "fd12:3456:789a:1::a00:1", "fd12:3456:789a:1::a00:b"


@dataclass(frozen=True)
class Lan:
    """The running machines."""

    uplink: Machine
    master: Machine
    worker1: Machine
    worker2: Machine


def reaches(worker: Machine) -> bool:
    """Whether a worker gets out just now."""
    return worker.run("timeout", "0.5", "bash", "-c", PROBE, ok=None).returncode == 0


def reaches6(worker: Machine) -> bool:
    """Whether a worker gets out by IPv6 just now."""
    return worker.run("timeout", "0.5", "bash", "-c", PROBE6, ok=None).returncode == 0


def status(lan: Lan) -> dict[str, object]:
    """What the gateway says of itself."""
    found: dict[str, object] = json.loads(lan.master.run("piimg-gateway", "status", "--json").stdout)
    return found


def kernel(master: Machine) -> str:
    """Everything a toggle might leave changed: all but the gateway's own table."""
    return master.shell(
        "nft list tables | grep -v piimg_gateway | while read -r one; do nft -s list $one; done;"
        "grep -r . /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward;"
        "ip -o link | cut -d' ' -f2"
    )


def is_open(master: Machine) -> bool:
    """What the kernel says of the gateway, asked without it. It must have its table, open or closed."""
    table = master.shell("nft list table inet piimg_gateway")
    assert "drop" in table
    return "masquerade" in table


def policy(master: Machine, policy: str) -> None:
    """Set the gateway's policy."""
    master.shell(f"sed -i \"s/^POLICY='[a-z-]*'/POLICY='{policy}'/\" /etc/piimg/gateway.conf")


def stop_watcher(master: Machine) -> None:
    """What a stop of the service does."""
    found = master.shell("cat /run/piimg-gateway/watch.pid").split()
    master.run("kill", *found, ok=(0, 1))  # the second ends by itself when the first does
    wait_until(lambda: master.run("kill", "-0", *found, ok=None).returncode != 0)


@contextlib.contextmanager
def held(worker: Machine, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs under with-internet until it is killed."""
    with worker.running(*prefix, "with-internet", "bash", "-c", "echo begun; exec sleep 60") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        yield process


def users(lan: Lan) -> list[str]:
    """The addresses of those who hold the gateway open."""
    found = status(lan)["users"]
    assert isinstance(found, list)
    return found
