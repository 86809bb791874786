"""One HTTP request: redirects, statuses, and errors in plain words."""

import contextlib
import http.client
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
import urllib3

from imagebuilder.base.catalogue import shown
from imagebuilder.base.wire import BoundedAdapter
from imagebuilder.errors import PiimgError
from imagebuilder.text import printable
from imagebuilder.version import __version__

# A default User-Agent is reported to get a 403 from downloads.raspberrypi.com.
USER_AGENT = f"piimg/{__version__} (+https://pypi.org/project/piimg/)"
_CHUNK = 16 << 10  # bytes; small: a piece that is cut off is lost, and a slow server still shows progress
_REDIRECTS = 10
OWN_FILE = "or use an image file that is here already: piimg fetch FILE, piimg build --base FILE"
"""The end of a hint: how to go on without the server."""

GZIP = ("gzip", "x-gzip")  # RFC 9110 8.4.1.3
_REASON = 80  # characters that are shown of a server's reason


@dataclass(frozen=True)
class Patience:
    """Timeouts, in seconds, and the number of tries.

    ``stall`` is the longest time without a byte; a slow server is accepted. ``tries`` counts tries in a row
    without progress. ``backoff`` is the pause after the first; it doubles after each.
    """

    connect: float = 15.0
    stall: float = 30.0
    tries: int = 5
    backoff: float = 1.0


_NO_HTTP = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError)
"""The exceptions for an answer that is not valid HTTP. The libraries let exceptions of lower layers through:
a negative chunk size is a ValueError of http.client, a wrong header a UnicodeError, which is a ValueError."""


class Transient(Exception):
    """A failure that another try may fix."""


class UnknownName(Transient):
    """The name of the server is not known: without a network, or misspelled."""


class NotThere(PiimgError):
    """The server has no such file (404 or 410)."""


class HttpSession(requests.Session):
    """A session that follows at most ten redirects, and none from https to http unless allowed."""

    def __init__(self, allow_http: bool) -> None:
        super().__init__()
        self.max_redirects = _REDIRECTS
        self.headers["User-Agent"] = USER_AGENT
        self.headers["Accept-Encoding"] = "identity"  # sizes and ranges must be of the file itself
        self._allow_http = allow_http
        for scheme in ("http://", "https://"):
            self.mount(scheme, BoundedAdapter())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            resp.close()  # requests would read all of its body into memory
        leaves_https = (
            resp.url.startswith("https:") and target is not None and urlsplit(target).scheme == "http"
        )
        if leaves_https and not self._allow_http:
            raise PiimgError(
                f"{shown(resp.url)} redirects from https to plain http: refused",
                "give the sha256 of the file with --sha256, or another URL",
            )
        return target


@contextlib.contextmanager
def answer(
    session: HttpSession, url: str, headers: dict[str, str], patience: Patience
) -> Iterator[requests.Response]:
    """The response with status 200, 206 or 416, its body unread.

    Raises Transient when another try may help, NotThere, and PiimgError.
    """
    try:
        response = session.get(url, headers=headers, stream=True, timeout=(patience.connect, patience.stall))
    except requests.TooManyRedirects as error:
        raise PiimgError(
            f"{shown(url)} redirects more than {_REDIRECTS} times", "the server loops: check the URL"
        ) from error
    except requests.exceptions.SSLError as error:
        raise PiimgError(
            f"{shown(url)}: the server's certificate is not valid",
            f"check the clock, the URL and any proxy;\n{OWN_FILE}",
        ) from error
    except requests.exceptions.ProxyError as error:
        raise Transient("the proxy cannot be used") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        failure = UnknownName if _UNKNOWN_NAME in str(error) else Transient
        raise failure(_reason(error)) from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise PiimgError(f"{shown(url)} does not work as a URL: {_reason(error)}", "check the URL") from error
    except _NO_HTTP as error:
        raise PiimgError(
            f"{shown(url)}: the server's answer is not valid HTTP ({_reason(error)})",
            f"check the URL, and any proxy;\n{OWN_FILE}",
        ) from error
    with response:
        _check_status(url, response)
        yield response


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    said = f"the server answered {status} {printable(str(response.reason or ''), _REASON)}".strip()
    if status in (200, 206, 416):
        return
    if status in (404, 410):
        raise NotThere(
            f"{shown(url)}: {said}",
            f"the file is not there, or not any more: check the name or the URL;\n{OWN_FILE}",
        )
    if status in (408, 429) or status >= 500:
        raise Transient(said)
    raise PiimgError(
        f"{shown(url)}: {said}", f"check the URL, and whether it needs a login or a proxy;\n{OWN_FILE}"
    )


def chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it was sent, in small pieces: a server may label NAME.gz with a Content-Encoding.

    Raises Transient when the connection breaks or stalls, or the answer is broken.
    """
    try:
        yield from response.raw.stream(_CHUNK, decode_content=False)
    except _NO_HTTP as error:
        raise Transient(_reason(error)) from error


_UNKNOWN_NAME = "NameResolution"  # in the text of urllib3's NameResolutionError


def _reason(error: Exception) -> str:
    """The failure in a few words: the messages of requests are long and show the URL."""
    text = str(error)
    known = {
        "timed out": "the server stopped answering",
        "IncompleteRead": "the connection was cut off",
        "Connection refused": "the connection was refused",
        _UNKNOWN_NAME: "the server's name is not known",
        "Network is unreachable": "there is no network",
        "No route to host": "the server cannot be reached",
        "reset by peer": "the connection was reset",
        "without response": "the server closed the connection",
    }
    return next((words for sign, words in known.items() if sign in text), type(error).__name__)


def encoding_of(response: requests.Response) -> str:
    """The Content-Encoding (RFC 9110 8.4) in lower case; empty when the body is the file itself."""
    encoding = str(response.headers.get("Content-Encoding", "")).strip().lower()
    return "" if encoding == "identity" else encoding


def decoded(content: bytes, response: requests.Response, limit: int) -> bytes:
    """A small document without its Content-Encoding; at most ``limit`` + 1 bytes.

    Apache labels ``NAME.gz.sha256`` like ``NAME.gz`` (mod_mime, AddEncoding): what is not gzip by its first
    bytes is returned as it was sent. Raises Transient when it is damaged.
    """
    if encoding_of(response) not in GZIP or not content.startswith(b"\x1f\x8b"):
        return content
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        document = decoder.decompress(content, limit + 1)
    except zlib.error as error:
        raise Transient("the answer is damaged") from error
    if not decoder.eof and len(document) <= limit:
        raise Transient("the connection was cut off")
    return document
