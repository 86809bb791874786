"""Probes: packets that look like a worker's, traced to see whether they pass.

A probe enters the kernel as if the LAN's interface had received it (a tap device whose packets tc redirects),
passes all rules, and is traced by nftables. So the result is right for any rules, without parsing them. The
outward direction is probed with the first packet of a TCP connection to the uplink's router; its answer is
traced on the way back. No packet of a probe reaches the LAN.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from piimg_gateway import netlink, rules
from piimg_gateway.conf import Conf, own_address
from piimg_gateway.failure import Failure

_TAP = "piimg-probe"
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 2, 0x1000
_SIOCSIFFLAGS, _IFF_UP, _IFF_NOARP = 0x8914, 1, 0x80
_PORT = 443
_SYN, _RST = 2, 4
_FORWARDED = 2.0  # seconds for a packet to pass this machine; a booting board is slow
_TRIES = 2  # within that time, as a packet may disappear without a trace on a booting board
_ANSWERED = 1.0  # seconds for the router's answer


@dataclass(frozen=True)
class Outcome:
    """The result of a probe.

    ``passing``: whether it passed; None when it could not be sent. ``table`` and ``chain`` are those that
    dropped it in the direction ``way``: "out", "back" or "in". ``reason`` is why there is no verdict, or no
    route. ``note``: a remark about a probe that passed.
    """

    passing: bool | None
    table: str = ""
    chain: str = ""
    way: str = ""
    reason: str = ""
    note: str = ""


def way_out(conf: Conf) -> Outcome:
    """Probe from the LAN through the uplink and back, while the gateway is open."""
    down = _down(conf.lan_interface, "LAN's interface") or _down(conf.uplink, "uplink")
    if down:
        return Outcome(False, reason=down)
    found = target(conf.uplink)
    if found is None:
        return Outcome(False, reason=f"the uplink {conf.uplink} has no route out")
    whom, is_router = found
    sequence = int.from_bytes(os.urandom(4), "big")
    lan, uplink = (socket.if_nametoindex(name) for name in (conf.lan_interface, conf.uplink))
    with _traced(conf) as (inject, follow):
        for _ in range(_TRIES):
            inject(_tcp(conf.probe_address(), whom, sequence, _SYN))
            out = follow(lan, "outgoing", _FORWARDED / _TRIES, "out")
            if out.passing or out.table:
                break
        if not out.passing:
            return out
        back = follow(uplink, "outgoing", _ANSWERED, "back")
        inject(_tcp(conf.probe_address(), whom, sequence + 1, _RST))
    if back.passing is False and back.chain:
        return back
    note = "" if back.passing else f"{whom} does not answer"
    return Outcome(True, note=note if is_router else f"no default route through {conf.uplink}")


def service(conf: Conf, protocol: str, port: int) -> Outcome:
    """Probe whether the workers' packets to a port of this node are let in (not whether it is in use)."""
    own = own_address(conf.lan_interface)
    down = _down(conf.lan_interface, "LAN's interface")
    if down or own is None:
        return Outcome(None, reason=down or f"{conf.lan_interface} has no address")
    make = _tcp if protocol == "tcp" else _udp
    with _traced(conf) as (inject, follow):
        inject(make(conf.probe_address(), own, 0, _SYN, port))
        return follow(socket.if_nametoindex(conf.lan_interface), "received", _FORWARDED, "in")


class _Follow:
    """Reads the traces of one probe and its answer."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._steps: list[netlink.Step] = []

    def __call__(self, interface: int, last: str, seconds: float, way: str) -> Outcome:
        """The result for the packet received on ``interface``; it passes if it reaches chain ``last``."""
        end = time.monotonic() + seconds
        while True:
            outcome = self._judged(interface, last, way)
            left = end - time.monotonic()
            if outcome is not None or left <= 0:
                return outcome or Outcome(
                    False, way=way, reason="it is lost on the way, and no table of nftables dropped it"
                )
            select.select([self._sock], [], [], left)
            self._steps += netlink.steps(self._sock)

    def _judged(self, interface: int, last: str, way: str) -> Outcome | None:
        packets = {step.packet for step in self._steps if step.interface == interface}
        for step in self._steps:
            if step.packet not in packets:
                continue
            if step.table == f"inet {rules.TABLE}" and step.chain == last:
                return Outcome(True)
            if step.dropped:
                return Outcome(False, step.table, step.chain, way)
        return None


@contextlib.contextmanager
def _traced(conf: Conf) -> Iterator[tuple[_Inject, _Follow]]:
    with contextlib.ExitStack() as stack:
        try:
            inject = stack.enter_context(_tap(conf.lan_interface))
        except (OSError, Failure) as error:
            raise Failure(f"a probe cannot be sent: {error}") from None
        follow = _Follow(stack.enter_context(netlink.traces()))
        stack.callback(_forget, conf)
        yield inject, follow


def _forget(conf: Conf) -> None:
    address = conf.probe_address()
    netlink.forget([one for one in netlink.connections() if one.source == address])


class _Inject:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        hardware = bytes.fromhex((Path("/sys/class/net") / _TAP / "address").read_text().replace(":", ""))
        # its own address as the target: the kernel drops packets for other addresses
        self._ethernet = hardware + b"\x02\0\0\0\0\x01" + b"\x08\0"

    def __call__(self, packet: bytes) -> None:
        os.write(self._descriptor, self._ethernet + packet)


@contextlib.contextmanager
def _tap(interface: str) -> Iterator[_Inject]:
    """A device whose packets count as received by ``interface``; it disappears with its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", _TAP.encode(), _IFF_TAP | _IFF_NO_PI))
        with contextlib.suppress(OSError):  # no IPv6 in this kernel: nothing to turn off
            Path(f"/proc/sys/net/ipv6/conf/{_TAP}/disable_ipv6").write_text("1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", _TAP.encode(), _IFF_UP | _IFF_NOARP))
        rules.command(
            ["tc", "-batch", "-"],
            f"qdisc add dev {_TAP} ingress\n"
            f"filter add dev {_TAP} parent ffff: protocol ip u32 match u32 0 0"
            f" action mirred ingress redirect dev {interface}\n",
        )
        yield _Inject(descriptor)
    finally:
        os.close(descriptor)


def _down(interface: str, what: str) -> str:
    folder = Path("/sys/class/net") / interface
    try:
        flags = int((folder / "flags").read_text(), 16)
    except OSError:
        return f"the {what} {interface} is not there"
    try:
        carrier = (folder / "carrier").read_text().strip() == "1"
    except OSError:
        carrier = False
    return "" if flags & _IFF_UP and carrier else f"the {what} {interface} is down"


def target(uplink: str) -> tuple[IPv4Address, bool] | None:
    """The target of a probe through the uplink, and whether that is its router: /proc/net/route, proc(5).

    Without a default route, it is an address on the uplink's own network. None when there is no route.
    """
    best: tuple[bool, int, IPv4Address] | None = None
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        interface, *words = line.split()
        network, gateway, mask = (IPv4Address(struct.pack("=I", int(words[n], 16))) for n in (0, 1, 6))
        if interface != uplink:
            continue
        default = not int(mask)
        if int(gateway):
            address = gateway
        elif default:  # point to point: any outside address (RFC 5737: reserved for documentation)
            address = IPv4Address("192.0.2.1")
        else:
            own = own_address(uplink)
            address = next(host for host in (network + 1, network + 2) if host != own)
        route = not default, int(words[5]), address
        best = route if best is None else min(best, route)
    return (best[2], not best[0]) if best else None


# --- packets (RFC 791, 793, 768) ----------------------------------------------------------------------------


def _sum(data: bytes) -> int:
    even = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ip(source: IPv4Address, target: IPv4Address, protocol: int, payload: bytes) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        rules.PROBE_ID,
        0,
        64,
        protocol,
        0,
        source.packed,
        target.packed,
    )
    return header[:10] + struct.pack("!H", _sum(header)) + header[12:] + payload


def _tcp(source: IPv4Address, target: IPv4Address, sequence: int, flags: int, port: int = _PORT) -> bytes:
    segment = struct.pack(
        "!HHIIBBHHH", rules.PROBE_PORT, port, sequence & 0xFFFFFFFF, 0, 5 << 4, flags, 1024, 0, 0
    )
    pseudo = source.packed + target.packed + struct.pack("!HH", socket.IPPROTO_TCP, len(segment))
    segment = segment[:16] + struct.pack("!H", _sum(pseudo + segment)) + segment[18:]
    return _ip(source, target, socket.IPPROTO_TCP, segment)


def _udp(source: IPv4Address, target: IPv4Address, _sequence: int, _flags: int, port: int) -> bytes:
    return _ip(source, target, socket.IPPROTO_UDP, struct.pack("!HHHH", rules.PROBE_PORT, port, 8, 0))
