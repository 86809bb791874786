"""The cluster's LAN in emulation: one virtual switch, a door into it for ssh, and an uplink.

The switch is a QEMU process without a machine, so that it outlives every node. It joins *cables*, one for
each node, and a *door*: QEMU's user-mode network, which has an address of the LAN and leads from a port on
127.0.0.1 to each node's port 22. Nothing leads out of the LAN (``restrict=on``), and the *guard* (guard.py)
keeps from the door what the nodes say to one another. The gateway's second port is on an *uplink* of its own:
nothing behind it but the host ``INTERNET``, which stands for the internet. Neither sends anything to any
other machine.

A cable is a pair of connected datagram sockets, whose ends QEMU processes inherit. With a socket that has a
name, QEMU would try without a pause to deliver to a node that does not listen yet: such a socket seems to
have room at all times.
"""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from imagebuilder.boot.frame_filter import guarded
from imagebuilder.boot.qmp import control
from imagebuilder.errors import PiimgError
from imagebuilder.model import Cluster, Node
from imagebuilder.system.process import background

QEMU = "qemu-system-aarch64"
INTERNET = IPv4Address("198.51.100.80")  # of TEST-NET-2 (RFC 5737), which is nobody's
INTERNET_PORT = 80
GREETING = "the internet"
"""What the host that stands for the internet says to whoever connects."""

_UPLINK = IPv4Network("198.51.100.0/24")
_PATIENCE = 60.0  # seconds until the switch answers
_SWITCH = "switch"
_HUB, _DOOR = 0, 1  # what the nodes are on, and the guard; and the door, and the guard


@dataclass(frozen=True)
class Port:
    """A network port of a node: the ``netdev`` QEMU is to make, its MAC address, its name on the node.

    ``cable`` is the descriptor that QEMU has to inherit for it, if there is one.
    """

    netdev: str
    mac: str
    name: str
    cable: int | None = None


@dataclass(frozen=True)
class Switch:
    """The switch. ``doors`` are the ports on 127.0.0.1 that lead to the nodes' port 22.

    ``cables`` has the descriptor of each node's end; ``lent`` is one to the first address that is lent by
    DHCP. ``cut`` ends the switch: whoever waits for an answer of a node then hears that there is none.
    """

    cluster: Cluster
    cables: Mapping[str, int]
    doors: Mapping[str, int]
    lent: int
    cut: Callable[[], None]

    def port(self, node: Node) -> Port:
        """The port by which ``node`` is on the LAN."""
        number = self.cluster.nodes.index(node)
        cable = self.cables[node.name]
        return Port(_dgram("lan", cable), f"b8:27:eb:00:00:{number:02x}", node.interface, cable)


@dataclass(frozen=True)
class Service:
    """A TCP ``port`` of the host that stands for the internet: what connects gets a ``command`` of its own.

    QEMU runs the command once for each connection, with the connection as its input and output.
    """

    port: int
    command: str


def uplink(node: Node, name: str, services: Sequence[Service] = ()) -> Port:
    """The port of the gateway called ``name`` that leads to the host ``INTERNET``, and nowhere else."""
    greeting = Service(INTERNET_PORT, f"echo {GREETING}")
    options = f"user,id=uplink,net={_UPLINK},restrict=on,ipv6=off"
    for service in (*services, *([] if any(one.port == INTERNET_PORT for one in services) else [greeting])):
        command = service.command.replace(",", ",,")
        options += f",guestfwd=tcp:{INTERNET}:{service.port}-cmd:{command}"
    return Port(options, "b8:27:eb:00:01:00", name)


@contextlib.contextmanager
def switched(folder: Path, cluster: Cluster, nodes: Sequence[Node]) -> Iterator[Switch]:
    """The LAN of ``cluster`` with a port for each of ``nodes``; gone at the end. ``folder`` is for QEMU.

    Raises PiimgError when the LAN has no room for the door, or QEMU fails.
    """
    said = folder / f"{_SWITCH}.log"
    with contextlib.ExitStack() as stack:

        def cable() -> tuple[socket.socket, socket.socket]:
            one, other = socket.socketpair(type=socket.SOCK_DGRAM)
            return stack.enter_context(one), stack.enter_context(other)

        lan = {node.name: cable() for node in nodes}
        outside, inside = cable(), cable()
        ends = [(_HUB, outside[0].fileno()), (_DOOR, inside[0].fileno())]
        ends += [(_HUB, ours.fileno()) for ours, _ in lan.values()]
        argv = switch_command(cluster, nodes, ends)
        stack.enter_context(guarded(outside[1], inside[1]))
        qemu = stack.enter_context(background(argv, said=said, cwd=folder, keep=[end for _, end in ends]))
        try:
            with control(folder / f"{_SWITCH}.qmp", lambda: qemu.poll() is None, _PATIENCE) as asked:
                listed = asked.ask("human-monitor-command", **{"command-line": "info usernet"})
        except EOFError:
            time.sleep(0.1)
            last = said.read_text("utf-8", "replace").strip().rpartition("\n")[2]
            raise PiimgError(f"the virtual switch did not start: {last}", "see piimg doctor") from None
        cables = {name: theirs.fileno() for name, (_, theirs) in lan.items()}
        yield Switch(cluster, cables, doors(listed, nodes), door_to(listed, _pool(cluster)), qemu.kill)


def switch_command(cluster: Cluster, nodes: Sequence[Node], ends: Sequence[tuple[int, int]]) -> list[str]:
    """The command line of the switch: each end of a cable is plugged into the hub of its number."""
    host, dns, pool = _free(cluster, 3)
    door = f"user,id=door,net={cluster.lan},host={host},dns={dns},dhcpstart={pool},restrict=on,ipv6=off"
    led_to = [*(node.address for node in nodes), pool]
    door += "".join(f",hostfwd=tcp:127.0.0.1:0-{address}:22" for address in led_to)
    gateway = cluster.node(cluster.gateway.node)
    if gateway not in nodes:  # somebody is at its port 22, which a node takes for the LAN being there
        door += f",guestfwd=tcp:{gateway.address}:22-cmd:echo piimg"
    argv = [QEMU, "-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-name", "piimg-switch"]
    argv += ["-qmp", f"unix:{_SWITCH}.qmp,server=on,wait=off"]
    argv += ["-netdev", door, "-netdev", f"hubport,id=hub-door,hubid={_DOOR},netdev=door"]
    for hub, end in ends:
        argv += ["-netdev", _dgram(f"cable{end}", end)]
        argv += ["-netdev", f"hubport,id=port{end},hubid={hub},netdev=cable{end}"]
    return argv


def doors(listed: str, nodes: Sequence[Node]) -> dict[str, int]:
    """The host's ports by node, from what QEMU's "info usernet" says. Raises PiimgError if one is missing."""
    return {node.name: door_to(listed, node.address) for node in nodes}


def door_to(listed: str, address: IPv4Address) -> int:
    """The host's port that leads to port 22 of ``address``. Raises PiimgError when there is none."""
    found = re.findall(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+(\S+)\s+22\b", listed)
    by_address = {there: int(port) for port, there in found}
    if str(address) not in by_address:
        raise PiimgError(f"QEMU opened no door to {address}", "please report this")
    return by_address[str(address)]


def _pool(cluster: Cluster) -> IPv4Address:
    """The first address that the door lends by DHCP."""
    return _free(cluster, 3)[2]


def _dgram(name: str, end: int) -> str:
    return f"dgram,id={name},local.type=fd,local.str={end}"


def _free(cluster: Cluster, count: int) -> list[IPv4Address]:
    """The last ``count`` addresses of the LAN that no node has."""
    taken = {node.address for node in cluster.nodes} | set(cluster.dns)
    found: list[IPv4Address] = []
    address = cluster.lan.broadcast_address - 1
    while address > cluster.lan.network_address and len(found) < count:
        if address not in taken:
            found.append(address)
        address -= 1
    if len(found) < count:
        raise PiimgError(
            f"{cluster.lan} has no {count} free addresses for the door into the virtual switch",
            "to boot it here the LAN must be larger",
        )
    return found
