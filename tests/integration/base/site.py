"""A real HTTP server on loopback with faults to order, for the tests of fetching."""

import contextlib
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler", bytes], None]


@dataclass(frozen=True)
class Seen:
    """One request as it came: the path and the headers that matter."""

    path: str
    range: str | None
    if_range: str | None
    user_agent: str | None


@dataclass
class Site:
    """What the server serves. ``faults[path]`` answer the next requests for a path, one each."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    seen: list[Seen] = field(default_factory=list)
    validators: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    """The Content-Encoding that each path is sent with; its bytes stay as they are in ``files``."""

    def of(self, path: str) -> list[Seen]:
        """The requests for ``path``."""
        return [seen for seen in self.seen if seen.path == path]


class Handler(BaseHTTPRequestHandler):
    """Answers GET with ranges, ETag and If-Range as RFC 9110 wants, unless a fault answers first."""

    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        self.close_connection = True
        self.site.seen.append(
            Seen(self.path, self.headers["Range"], self.headers["If-Range"], self.headers["User-Agent"])
        )
        content = self.site.files.get(self.path)
        faults = self.site.faults[self.path]
        with contextlib.suppress(ConnectionError):
            if faults:
                faults.pop(0)(self, content or b"")
            elif content is None:
                self.head(404, 0)
            else:
                self.serve(content)

    def serve(self, content: bytes, cut: int | None = None) -> None:
        """Answer with ``content``, or the part asked for; only ``cut`` bytes of it are sent."""
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if asked and self.headers["If-Range"] == etag(content):
            start = int(asked[1])
            if start >= len(content):
                self.head(416, 0, {"Content-Range": f"bytes */{len(content)}"})
                return
            said = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.head(206, len(content) - start, self.validators(content) | {"Content-Range": said})
        else:
            self.head(200, len(content), self.validators(content))
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])

    def validators(self, content: bytes) -> dict[str, str]:
        label = {"Content-Encoding": self.site.labels[self.path]} if self.path in self.site.labels else {}
        if not self.site.validators:
            return label
        return label | {"ETag": etag(content), "Last-Modified": formatdate(0, usegmt=True)}

    def head(self, status: int, length: int | None, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:12]}"'


def status(code: int) -> Fault:
    """Answer with a status and no body."""
    return lambda handler, content: handler.head(code, 0)


def cut(after: int) -> Fault:
    """Close the connection after so many bytes of the body."""
    return lambda handler, content: handler.serve(content, cut=after)


def reset(after: int) -> Fault:
    """Reset the connection (RST) after so many bytes of the body."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.serve(content, cut=after)
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    return answer


def stall(after: int, seconds: float) -> Fault:
    """Say nothing more after so many bytes of the body."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.serve(content, cut=after)
        handler.wfile.flush()
        time.sleep(seconds)

    return answer


def drip(piece: int, pause: float) -> Fault:
    """Send the whole body, but slowly."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.head(200, len(content), handler.validators(content))
        for start in range(0, len(content), piece):
            handler.wfile.write(content[start : start + piece])
            handler.wfile.flush()
            time.sleep(pause)

    return answer


def redirect(to: str) -> Fault:
    return lambda handler, content: handler.head(302, 0, {"Location": to})


def whole(handler: Handler, content: bytes) -> None:
    """Ignore Range: always the whole file with 200."""
    handler.head(200, len(content), handler.validators(content))
    handler.wfile.write(content)


def unmeasured(handler: Handler, content: bytes) -> None:
    """The whole file without a Content-Length: its end is where the connection ends."""
    handler.head(200, None)
    handler.wfile.write(content)


def overstated(handler: Handler, content: bytes) -> None:
    """Declare more than there is, and answer for the rest that it does not have."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
    if asked:
        handler.head(416, 0, {"Content-Range": f"bytes */{len(content)}"})
    else:
        handler.head(200, len(content) + 1000, handler.validators(content))
        handler.wfile.write(content)


def wrong_range(handler: Handler, content: bytes) -> None:
    """A 206 that is not the part asked for."""
    said = f"bytes 0-{len(content) - 1}/{len(content)}"
    handler.head(206, len(content), handler.validators(content) | {"Content-Range": said})
    handler.wfile.write(content)


def careless(handler: Handler, content: bytes) -> None:
    """The part asked for, of the file as it is now, whatever If-Range says."""
    start = int(re.sub(r"\D", "", handler.headers["Range"]))
    said = f"bytes {start}-{len(content) - 1}/{len(content)}"
    handler.head(206, len(content) - start, handler.validators(content) | {"Content-Range": said})
    handler.wfile.write(content[start:])


def raw(answer: bytes, more: bytes = b"", seconds: float = 5) -> Fault:
    """Send exactly these bytes; then ``more``, again and again, until the client goes or the time is over."""

    def send(handler: Handler, content: bytes) -> None:
        handler.wfile.write(answer)
        end = time.monotonic() + seconds
        while more and time.monotonic() < end:
            handler.wfile.write(more)

    return send


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that went away is what some tests are about


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A site on a free port of loopback, while the block lasts; over https with ``tls``."""
    site = Site()
    handler = type("BoundHandler", (Handler,), {"site": site})
    with _Server(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        site.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
