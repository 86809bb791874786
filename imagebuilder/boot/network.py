"""The cluster's LAN in emulation: one virtual switch, a door into it for ssh, and an uplink.

The switch is a QEMU process without a machine, so that it outlives every node. It connects *cables*, one for
each node, and a *door*: QEMU's user-mode network, which has an address in the LAN and forwards a port on
127.0.0.1 to the port of each node's sshd. Nothing leads out of the LAN (``restrict=on``), and the *frame
filter* (frame_filter.py) keeps traffic between nodes away from the door. The gateway's second port is on a
separate *uplink*: the only host behind it represents the internet. Neither network sends anything to any
other machine.

A cable is a pair of connected datagram sockets, whose ends QEMU processes inherit. A named socket always
seems writable, so QEMU would retry without a pause to deliver to a node that does not listen yet.
"""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from imagebuilder.boot.frame_filter import guarded
from imagebuilder.boot.qmp import control
from imagebuilder.boot.trunk import trunked
from imagebuilder.errors import PiimgError
from imagebuilder.model import Cluster, Gateway, Node
from imagebuilder.networks import port_of
from imagebuilder.system.process import background

QEMU = "qemu-system-aarch64"
INTERNET = IPv4Address("198.51.100.80")
"""The host that represents the internet (TEST-NET-2, RFC 5737), unless the uplink has a static address."""

INTERNET_PORT = 80
GREETING = "the internet"
"""The text that the host ``INTERNET`` sends to each client."""

_UPLINK = IPv4Network("198.51.100.0/24")
_PATIENCE = 60.0  # seconds until the switch answers
_SWITCH = "switch"
_HUB, _DOOR = 0, 1  # hub of the nodes and the frame filter; hub of the door and the frame filter


@dataclass(frozen=True)
class Port:
    """A network port of a node: the ``netdev`` option for QEMU, its MAC address, its name on the node.

    ``cable`` is the descriptor that QEMU must inherit for it, if any.
    """

    netdev: str
    mac: str
    name: str
    cable: int | None = None


@dataclass(frozen=True)
class Switch:
    """The switch. ``doors`` are the ports on 127.0.0.1 that are forwarded to the nodes' sshd.

    ``cables`` has the descriptor of each node's end. ``lent`` has the ports for the first addresses that DHCP
    gives out, by the port of sshd there: at least one, and one for each node without a static address; which
    node gets which is not known. ``cut`` ends the switch, which closes all connections to nodes at once.
    """

    cluster: Cluster
    cables: Mapping[str, int]
    doors: Mapping[str, int]
    lent: Mapping[int, tuple[int, ...]]
    cut: Callable[[], None]

    def port(self, node: Node) -> Port:
        """The port that connects ``node`` to the LAN."""
        number = self.cluster.nodes.index(node)
        cable = self.cables[node.name]
        mac = f"b8:27:eb:00:00:{number:02x}"
        return Port(_dgram("lan", cable), mac, port_of(node.interface), cable)


@dataclass(frozen=True)
class Service:
    """A TCP ``port`` of the host that represents the internet, and the ``command`` that answers there.

    QEMU runs the command once per connection, with the connection as its input and output.
    """

    port: int
    command: str


def internet(gateway: Gateway) -> IPv4Address:
    """The host behind the uplink that represents the internet. With a static address it is on that network.

    Raises PiimgError when that network has no free address for it.
    """
    return _uplink_hosts(gateway)[1] if gateway.address else INTERNET


def _uplink_hosts(gateway: Gateway) -> list[IPv4Address]:
    """Free addresses for a name server and the internet on the network of a static uplink address."""
    assert gateway.address is not None
    return _last_free(gateway.address.network, {gateway.address.ip, gateway.router}, 2)


def uplink(gateway: Gateway, services: Sequence[Service] = ()) -> Port:
    """The port of the gateway that leads only to the host ``internet``."""
    greeting = Service(INTERNET_PORT, f"echo {GREETING}")
    host = internet(gateway)
    options = f"user,id=uplink,net={_UPLINK},restrict=on,ipv6=off"
    if gateway.address:
        net, dns = gateway.address.network, _uplink_hosts(gateway)[0]
        options = f"user,id=uplink,net={net},host={gateway.router},dns={dns},restrict=on,ipv6=off"
    for service in (
        *services,
        *([] if any(other.port == INTERNET_PORT for other in services) else [greeting]),
    ):
        command = service.command.replace(",", ",,")
        options += f",guestfwd=tcp:{host}:{service.port}-cmd:{command}"
    return Port(options, "b8:27:eb:00:01:00", gateway.uplink)


@contextlib.contextmanager
def switched(folder: Path, cluster: Cluster, nodes: Sequence[Node]) -> Iterator[Switch]:
    """The LAN of ``cluster`` with a port for each of ``nodes``, during the block. ``folder`` is for QEMU.

    Raises PiimgError when the LAN has no free addresses for the door, or QEMU fails.
    """
    log = folder / f"{_SWITCH}.log"
    with contextlib.ExitStack() as stack:

        def cable() -> tuple[socket.socket, socket.socket]:
            near, far = socket.socketpair(type=socket.SOCK_DGRAM)
            return stack.enter_context(near), stack.enter_context(far)

        lan = {node.name: cable() for node in nodes}
        outside, inside = cable(), cable()
        ends = [(_HUB, outside[0].fileno()), (_DOOR, inside[0].fileno())]
        ends += [(_HUB, near.fileno()) for near, _ in lan.values()]
        argv = switch_command(cluster, nodes, ends)
        stack.enter_context(guarded(outside[1], inside[1]))
        trunks = {}
        for node in nodes:
            if vlan := node.interface.partition(".")[2]:
                trunks[node.name] = cable()
                stack.enter_context(trunked(lan[node.name][1], trunks[node.name][0], int(vlan)))
        qemu = stack.enter_context(background(argv, said=log, cwd=folder, keep=[end for _, end in ends]))
        try:
            with control(folder / f"{_SWITCH}.qmp", lambda: qemu.poll() is None, _PATIENCE) as monitor:
                listed = monitor.ask("human-monitor-command", **{"command-line": "info usernet"})
        except EOFError:
            time.sleep(0.1)
            last = log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
            raise PiimgError(f"the virtual switch did not start: {last}", "see piimg doctor") from None
        cables = {name: far.fileno() for name, (_, far) in (lan | trunks).items()}
        lent = {
            port: tuple(door_to(listed, address, port) for address in _pool(cluster, nodes))
            for port in {node.ssh_port for node in nodes}
        }
        yield Switch(cluster, cables, doors(listed, nodes), lent, qemu.kill)


def switch_command(cluster: Cluster, nodes: Sequence[Node], ends: Sequence[tuple[int, int]]) -> list[str]:
    """The command line of the switch; ``ends`` are pairs of a hub's number and a cable's descriptor."""
    host, dns = _own(cluster)
    pool = _pool(cluster, nodes)
    door = f"user,id=door,net={cluster.lan},host={host},dns={dns},dhcpstart={pool[0]},restrict=on,ipv6=off"
    ports = sorted({node.ssh_port for node in nodes})
    targets = [(node.address, node.ssh_port) for node in nodes if node.address]
    targets += [(address, port) for address in pool for port in ports]
    door += "".join(f",hostfwd=tcp:127.0.0.1:0-{address}:{port}" for address, port in targets)
    gateway = cluster.gateway_node
    # ssh's port of the gateway must answer: nodes use it to see whether the LAN is up
    if gateway and gateway not in nodes:
        door += f",guestfwd=tcp:{gateway.address}:{gateway.ssh_port}-cmd:echo piimg"
    argv = [QEMU, "-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-name", "piimg-switch"]
    argv += ["-qmp", f"unix:{_SWITCH}.qmp,server=on,wait=off"]
    argv += ["-netdev", door, "-netdev", f"hubport,id=hub-door,hubid={_DOOR},netdev=door"]
    for hub, end in ends:
        argv += ["-netdev", _dgram(f"cable{end}", end)]
        argv += ["-netdev", f"hubport,id=port{end},hubid={hub},netdev=cable{end}"]
    return argv


def doors(listed: str, nodes: Sequence[Node]) -> dict[str, int]:
    """The host's ports by node with a static address, from the output of "info usernet".

    Raises PiimgError when one is missing.
    """
    return {node.name: door_to(listed, node.address, node.ssh_port) for node in nodes if node.address}


def door_to(listed: str, address: IPv4Address, port: int) -> int:
    """The host's port that is forwarded to ``port`` of ``address``. Raises PiimgError when there is none."""
    found = re.findall(rf"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+(\S+)\s+{port}\b", listed)
    by_address = {target: int(door) for door, target in found}
    if str(address) not in by_address:
        raise PiimgError(f"QEMU forwards no port to {address}", "please report this")
    return by_address[str(address)]


def _own(cluster: Cluster) -> tuple[IPv4Address, IPv4Address]:
    """The door's address in the LAN, that of the router if there is one, and that of its name server."""
    host, dns = _last_free(cluster.lan, _taken(cluster), 2)
    return cluster.router or host, dns


def _pool(cluster: Cluster, nodes: Sequence[Node]) -> list[IPv4Address]:
    """The first addresses that the door gives out by DHCP, without a gap: as many as nodes need, or one."""
    count = max(1, sum(node.address is None for node in nodes))
    taken = _taken(cluster) | {*_own(cluster)}
    while True:
        found = _last_free(cluster.lan, taken, count)[::-1]
        if int(found[-1]) - int(found[0]) == count - 1:
            return found
        taken.add(found[-1])  # its neighbours are not free: it cannot be part of the pool


def _dgram(name: str, end: int) -> str:
    return f"dgram,id={name},local.type=fd,local.str={end}"


def _taken(cluster: Cluster) -> set[IPv4Address | None]:
    """The addresses of the LAN that the manifest names."""
    return {node.address for node in cluster.nodes} | {*cluster.dns, cluster.router}


def _last_free(network: IPv4Network, taken: Set[IPv4Address | None], count: int) -> list[IPv4Address]:
    found: list[IPv4Address] = []
    address = network.broadcast_address - 1
    while address > network.network_address and len(found) < count:
        if address not in taken:
            found.append(address)
        address -= 1
    if len(found) < count:
        raise PiimgError(
            f"{network} does not have {count} free addresses, which the emulated network needs",
            "use a larger network in the manifest",
        )
    return found
