"""What a server sends, bounded below the libraries: http.client and urllib3 trust it in some places.

A chunk of size -1 has them read all that ever comes into memory; a line of a chunk's size, trailers and
interim answers ("100 Continue") may go on for ever.
"""

import http.client
import io
import socket
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter

LONGEST_LINE = 64 << 10
"""Bytes of one line: a status, a header, a chunk's size. http.client's own limit where it has one."""

MOST_LINES = 300
"""Lines in a row without content between them; http.client takes no more than 100 headers."""


class _Stream(io.BufferedReader):
    """What comes from a socket. Raises HTTPException over what no honest server sends."""

    _lines = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        self._lines += 1
        if self._lines > MOST_LINES:
            raise http.client.HTTPException("header lines without end")
        asked = LONGEST_LINE + 1 if size is None or size < 0 else min(size, LONGEST_LINE + 1)
        line = super().readline(asked)
        if len(line) > LONGEST_LINE:
            raise http.client.LineTooLong("line")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise http.client.HTTPException("a length below zero")
        found = super().read(size)
        if len(found) > 2:  # not only the end of a chunk's line
            self._lines = 0
        return found


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = _Stream(self.fp.detach())


class _Http(urllib3.connection.HTTPConnection):
    response_class = _Response


class _Https(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https


class BoundedAdapter(HTTPAdapter):
    """requests' adapter, over connections that are bounded; also where a proxy is between."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self.poolmanager.pool_classes_by_scheme
        return manager
