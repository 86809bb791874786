"""Where the page is: the value of ``--web``, and the socket that listens there."""

import ipaddress
import re
import socket
from dataclasses import dataclass

from imagebuilder.errors import UsageError

LOOPBACK = "127.0.0.1"
PORT = 8180
"""The port where none is given; if it is in use, any free one is taken."""

_BACKLOG = 64  # connections that wait to be accepted
_BUFFER = 128 << 10  # bytes that the kernel keeps for a viewer that does not read
_PATIENCE = 20_000  # milliseconds after which the kernel ends a connection that takes no data (tcp(7))
_VALUE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]*))(?::(?P<port>\d{1,5}))?")
_ELSEWHERE = ("192.0.2.1", "2001:db8::1")  # addresses for documentation (RFC 5737, RFC 3849): nothing is sent


@dataclass(frozen=True)
class PageAddress:
    """``host`` is a name or a number; ``port`` is None for ``PORT``, or another where that is in use."""

    host: str = LOOPBACK
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{PORT if self.port is None else self.port}"


def parsed(text: str) -> PageAddress:
    """``[ADDRESS][:PORT]``. Raises UsageError."""
    found = _VALUE.fullmatch(text)
    port = None if found is None or found["port"] is None else int(found["port"])
    if found is None or (port is not None and port > 65535):
        raise UsageError(f"--web: {text} is no address", "write ADDRESS:PORT, such as 127.0.0.1:8180")
    return PageAddress(found["six"] or found["host"] or LOOPBACK, port)


def listening(address: PageAddress) -> socket.socket:
    """A socket that listens there. Raises OSError, for example when the port is in use.

    What it accepts has a small buffer and a time limit: a viewer that never reads is dropped by the kernel.
    """
    try:
        return _listening(address.host, PORT if address.port is None else address.port)
    except OSError:
        if address.port is not None:
            raise
        return _listening(address.host, 0)


def _listening(host: str, port: int) -> socket.socket:
    family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PATIENCE)
        made.bind(place)
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(_host(listener)).is_loopback


def shown_place(listener: socket.socket) -> str:
    """``HOST:PORT`` for a URL; in place of "any address" that of this machine on its network."""
    host, port = _host(listener), listener.getsockname()[1]
    if ipaddress.ip_address(host).is_unspecified:
        host = _own_address(listener.family) or host
    return str(PageAddress(host, port))


def _host(listener: socket.socket) -> str:
    return str(listener.getsockname()[0]).partition("%")[0]


def _own_address(family: int) -> str:
    """The address of this machine that others reach; empty without a network."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ELSEWHERE[family == socket.AF_INET6], 9))  # UDP: this sends nothing
        except OSError:
            return ""
        return _host(probe)
