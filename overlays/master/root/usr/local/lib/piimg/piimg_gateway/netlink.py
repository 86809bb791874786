"""Netlink: notifications of changes, packet traces, tracked connections.

The numbers are from linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h, nf_tables.h and
nfnetlink_conntrack.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Union

Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]

_NETFILTER = 12
_GROUP_NFTABLES, _GROUP_TRACE = 7, 9
_GROUPS_ROUTE = (1, 5, 7, 24)  # links, IPv4 addresses, IPv4 routes, IPv4 forwarding
_MSG_TRACE, _GENERATION = 10 << 8 | 17, 10 << 8 | 16
_CT_GET, _CT_DELETE = 1 << 8 | 1, 1 << 8 | 2
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_SO_RCVBUFFORCE = 33


def _listening(protocol: int, *groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    sock.bind((0, 0))
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 20)
    for group in groups:
        sock.setsockopt(270, 1, group)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
    return sock


def rule_changes() -> socket.socket:
    """A socket that becomes readable when any program changes rules of nftables."""
    return _listening(_NETFILTER, _GROUP_NFTABLES)


def link_changes() -> socket.socket:
    """A socket that becomes readable when interfaces, addresses, routes or forwarding change."""
    return _listening(socket.NETLINK_ROUTE, *_GROUPS_ROUTE)


def drain(sock: socket.socket) -> bool:
    """Read all pending messages; whether there were any. An overrun counts, too."""
    found = False
    while True:
        try:
            sock.recv(1 << 16)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        found = True


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each message."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16:
            return
        yield kind, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def generation() -> int:
    """The generation of the nftables rules, which each change raises. 0 when it is not known."""
    try:
        with _asking() as sock:
            _send(sock, _GENERATION, _REQUEST, b"")
            return next(_number(_attributes(payload[4:])[1]) for payload in _answers(sock))
    except (OSError, StopIteration):
        return 0


# --- traces -------------------------------------------------------------------------------------------------

_FAMILIES = {1: "inet", 2: "ip", 10: "ip6", 7: "bridge", 5: "netdev", 3: "arp"}


@dataclass(frozen=True)
class Step:
    """One step of the traced packet ``packet``, in ``table`` (with its family) and ``chain``.

    ``interface`` is the index of its input interface, 0 where the kernel does not repeat it.
    """

    packet: int
    table: str
    chain: str
    dropped: bool
    interface: int


def traces() -> socket.socket:
    """A socket for ``steps``."""
    return _listening(_NETFILTER, _GROUP_TRACE)


def steps(sock: socket.socket) -> list[Step]:
    """The steps of traced packets since the last call."""
    found: list[Step] = []
    while True:
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            continue
        for kind, payload in _messages(data):
            if kind == _MSG_TRACE and len(payload) >= 4:
                found.append(_step(payload[0], _attributes(payload[4:])))


def _step(family: int, found: dict[int, bytes]) -> Step:
    verdict = _attributes(found.get(5, b"")).get(1, b"\0\0\0\1")
    policy = found.get(16, b"\0\0\0\1")
    return Step(
        _number(found.get(6, b"")),
        f"{_FAMILIES.get(family, '?')} {_text(found.get(1, b''))}",
        _text(found.get(2, b"")),
        # the first eight bits of a verdict are the verdict, the rest is its argument (an errno, a queue)
        (struct.unpack("=i", verdict[::-1])[0] & 0xFF) == 0 or _number(policy) == 0,
        _number(found.get(10, b"")),
    )


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("ascii", "replace")


# --- connections --------------------------------------------------------------------------------------------

_FAMILIES_OF_IP = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True)
class Connection:
    """A tracked connection: source, target, address of the answers; ``family`` and ``key`` delete it."""

    source: Address
    target: Address
    answered_by: Address
    answered_to: Address
    family: int
    key: bytes

    def crosses(self, lan: Sequence[Network]) -> bool:
        """Whether it is forwarded between the LAN and other networks, and not to or from this node's own."""
        translated_target = self.answered_by != self.target
        translated_source = self.answered_to != self.source
        from_lan, to_lan = (
            any(address in network for network in lan) for address in (self.source, self.target)
        )
        if from_lan and not to_lan:
            return translated_source or not translated_target
        return to_lan and not from_lan and not translated_source


def connections() -> list[Connection]:
    """All tracked connections; none when the kernel tracks none."""
    found = []
    for family in _FAMILIES_OF_IP:
        with contextlib.suppress(OSError), _asking() as sock:  # else the kernel tracks nothing yet
            _send(sock, _CT_GET, _REQUEST | _DUMP, b"", family)
            found += [_connection(family, payload) for payload in _answers(sock)]
    return found


def forget(found: Iterable[Connection]) -> list[Connection]:
    """Delete tracked connections; return those that the kernel keeps. Those that have ended are ignored.

    Up to Linux 6.3 the kernel keeps a connection that is in a flowtable: EBUSY.
    """
    kept = []
    with _asking() as sock:
        for one in found:
            try:
                _send(sock, _CT_DELETE, _REQUEST | _ACK, one.key, one.family)
                list(_answers(sock))
            except OSError as error:
                if error.errno == errno.EBUSY:
                    kept.append(one)
    return kept


def _connection(family: int, payload: bytes) -> Connection:
    found = _attributes(payload[4:])
    source, target = (1, 2) if family == socket.AF_INET else (3, 4)
    begun, answers = (_attributes(_attributes(found[kind])[1]) for kind in (1, 2))
    # tuple, zone, id: exactly this connection, not a later one with the same tuple
    key = b"".join(
        _attribute(kind | (0x8000 if kind == 1 else 0), found[kind]) for kind in (1, 18, 12) if kind in found
    )
    return Connection(
        ip_address(begun[source]),
        ip_address(begun[target]),
        ip_address(answers[source]),
        ip_address(answers[target]),
        family,
        key,
    )


def _asking() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    sock.bind((0, 0))
    sock.settimeout(2)
    return sock


def _send(
    sock: socket.socket, kind: int, flags: int, attributes: bytes, family: int = socket.AF_INET
) -> None:
    body = struct.pack("=BBH", family, 0, 0) + attributes
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)


def _answers(sock: socket.socket) -> Iterator[bytes]:
    """The payloads of the answer to a request. Raises OSError with the kernel's error."""
    while True:
        for kind, payload in _messages(sock.recv(1 << 18)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", payload)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return
            yield payload
