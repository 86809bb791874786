"""A client of the page, as plain as a socket: requests, and the stream of events."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any


@dataclass(frozen=True)
class Got:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class Client:
    """Asks the server at ``port`` of this machine. ``token`` is put before each path."""

    port: int
    token: str = ""

    def ask(self, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> Got:
        """A request; headers are written with _ in place of -."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"{'/' if self.token else ''}{self.token}{path}", body, given)
            response = connection.getresponse()
            return Got(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def answer(self, ticket: int, text: str, **headers: str) -> Got:
        """Send the form of a question."""
        form = f"ticket={ticket}&answer={text}".encode()
        return self.ask("/answer", "POST", form, Content_Type="application/x-www-form-urlencoded", **headers)

    @contextmanager
    def events(self, mark: str = "", **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of the page, as they come; the last one is empty, at the end of the run."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(
                "GET", f"{'/' if self.token else ''}{self.token}/events?from={mark}", None, given
            )
            yield _events(connection.getresponse())
        finally:
            connection.close()

    def browse(self) -> Got:
        """Ask for the page like a browser."""
        return self.ask("/", Accept="text/html", User_Agent="Browser")

    def never_reads(self) -> socket.socket:
        """A viewer of the events that takes nothing; its window is as small as can be."""
        viewer = socket.socket()
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        viewer.connect(("127.0.0.1", self.port))
        viewer.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return viewer


def _events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    assert response.status == 200
    while line := response.readline():
        if line.startswith(b"data: ") and line.strip() != b"data:":
            yield json.loads(line[6:])
        elif line.startswith(b"event: end"):
            yield {}
            return
