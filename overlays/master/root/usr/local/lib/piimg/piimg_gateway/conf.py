"""The gateway's settings, /etc/piimg/gateway.conf: lines KEY='value' in shell syntax."""

from __future__ import annotations

import fcntl
import ipaddress
import re
import shlex
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from piimg_gateway.failure import Failure

PATH = "/etc/piimg/gateway.conf"
POLICIES = ("off", "on", "on-demand")
# Interfaces that Docker, Podman, libvirt, LXD and the usual networks of k3s create for containers and guests.
INSIDE = "docker0 br-* veth* podman* cni* flannel* cali* virbr* lxdbr* lxcbr*"
SSH_PORT = 22
_SIOCGIFADDR = 0x8915
_INTERFACE = re.compile(r"[A-Za-z0-9_.@:+-]{1,15}")
_PATTERN = re.compile(r"[A-Za-z0-9_.@:+-]{1,14}\*?")


@dataclass(frozen=True)
class Conf:
    """The settings. ``inside``: names of interfaces (or prefixes with "*") whose LAN traffic is allowed.

    ``ssh_port`` is the port of this node's sshd. ``lan6`` is the IPv6 network of the LAN that is let out;
    None: IPv6 never is. ``problem``: an error in the settings that does not prevent closing the gateway.
    """

    policy: str
    lan: ipaddress.IPv4Network
    lan_interface: str
    uplink: str
    inside: tuple[str, ...]
    problem: str = ""
    ssh_port: int = SSH_PORT
    lan6: ipaddress.IPv6Network | None = None

    def probe_address(self) -> ipaddress.IPv4Address:
        """An address of the LAN that is not this node's: probes come from it."""
        last = self.lan.broadcast_address - 1
        return last - 1 if last == own_address(self.lan_interface) else last

    def networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The networks of the LAN: its IPv4 network, and any IPv6 networks on its interface."""
        found = _networks6(self.lan_interface)
        return [self.lan, *([self.lan6] if self.lan6 else []), *(one for one in found if one != self.lan6)]


def read(path: str = PATH) -> Conf:
    """Read the settings. Raises Failure when they cannot be read or are wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Failure(
            f"cannot read {path} ({error.strerror}): this node is not the cluster's gateway"
        ) from None
    return parse(text, path)


def parse(text: str, path: str = PATH) -> Conf:
    """The settings in ``text``. Raises Failure when one is missing or wrong."""

    def wrong(what: str) -> NoReturn:
        raise Failure(f"{path}: {what}")

    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            wrong(f"line {number}: {error}")
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                wrong(f"line {number}: expected KEY='value'")
            values[key] = value
    try:
        lan = ipaddress.IPv4Network(values.get("LAN", ""))
    except ValueError as error:
        wrong(f"LAN: {error}")
    if lan.prefixlen > 30:
        wrong(f"LAN: {lan} holds no two nodes")
    lan6 = None
    if values.get("LAN6"):
        try:
            lan6 = ipaddress.IPv6Network(values["LAN6"])
        except ValueError as error:
            wrong(f"LAN6: {error}")
    for key in ("LAN_INTERFACE", "UPLINK"):
        if not _INTERFACE.fullmatch(values.get(key, "")):
            wrong(f"{key} must be the name of an interface, not {values.get(key, '')!r}")
    if values["LAN_INTERFACE"] == values["UPLINK"]:
        wrong("LAN_INTERFACE and UPLINK are the same")
    policy, problem = values.get("POLICY", ""), ""
    if policy not in POLICIES:
        policy, problem = "off", f"{path}: POLICY must be off, on or on-demand, not {policy!r}"
    inside = tuple(values.get("INSIDE", INSIDE).split())
    for name in inside:
        if not _PATTERN.fullmatch(name):
            inside = ()
            problem = f"{path}: INSIDE: {name!r} is not the name of an interface, nor its beginning with *"
    port = values.get("SSH_PORT", str(SSH_PORT))
    if not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) >= 1 << 16:
        port, problem = str(SSH_PORT), f"{path}: SSH_PORT must be a port, not {port!r}"
    return Conf(policy, lan, values["LAN_INTERFACE"], values["UPLINK"], inside, problem, int(port), lan6)


def own_address(interface: str) -> ipaddress.IPv4Address | None:
    """The first IPv4 address of an interface, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            found = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("40s", interface.encode()))
        except OSError:
            return None
    return ipaddress.IPv4Address(found[20:24])


def _networks6(interface: str) -> Iterator[ipaddress.IPv6Network]:
    """The IPv6 networks on an interface: /proc/net/ipv6_route, net/ipv6/route.c of Linux."""
    try:
        lines = Path("/proc/net/ipv6_route").read_text().splitlines()
    except OSError:
        return  # no IPv6 in this kernel
    for line in lines:
        words = line.split()
        network = ipaddress.IPv6Network((int(words[0], 16), int(words[1], 16)), strict=False)
        if (
            words[-1] == interface
            and network.prefixlen
            and not (network.is_link_local or network.is_multicast)
        ):
            yield network
