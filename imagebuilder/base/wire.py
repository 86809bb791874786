"""Bounds on what a server sends, below http.client and urllib3, which have none in some places.

With a chunk of size -1 they read the whole answer into memory. The line with a chunk's size, trailers and
interim answers ("100 Continue") have no limit.
"""

import http.client
import io
import socket
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter

LONGEST_LINE = 64 << 10
"""Bytes in one line: a status, a header, a chunk's size. The limit of http.client, where it has one."""

MOST_LINES = 300
"""Lines in a row without content between them; http.client accepts at most 100 headers."""


class _Stream(io.BufferedReader):
    """A buffered socket. Raises HTTPException for what no valid server sends."""

    _lines = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        self._lines += 1
        if self._lines > MOST_LINES:
            raise http.client.HTTPException("header lines without end")
        requested = LONGEST_LINE + 1 if size is None or size < 0 else min(size, LONGEST_LINE + 1)
        line = super().readline(requested)
        if len(line) > LONGEST_LINE:
            raise http.client.LineTooLong("line")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise http.client.HTTPException("a length below zero")
        content = super().read(size)
        if len(content) > 2:  # more than the end of a chunk's line
            self._lines = 0
        return content


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
    """The adapter of requests, with bounds on connections, also through a proxy."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self.poolmanager.pool_classes_by_scheme
        return manager
