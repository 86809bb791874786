"""HTTP: streaming downloads that resume, and small files. The only place that uses requests.

A download grows in a ``.partial`` file; beside it lies what the server said of the file (its *validator*:
a strong ETag, else Last-Modified, RFC 9110 8.8). The next try asks for the rest with ``Range`` and
``If-Range``, so a file that changed meanwhile, or a server that ignores ranges, starts from zero.
"""

import contextlib
import http.client
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from pydantic import TypeAdapter, ValidationError

from imagebuilder.base.catalogue import shown
from imagebuilder.base.space import check_room, writing
from imagebuilder.base.wire import BoundedAdapter
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.progress import Task, task
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.system import files
from imagebuilder.text import printable
from imagebuilder.version import __version__

# A default User-Agent is reported to get a 403 from downloads.raspberrypi.com.
USER_AGENT = f"piimg/{__version__} (+https://pypi.org/project/piimg/)"
LARGEST = 32 << 30
"""Bytes; no download is larger than this."""

_CHUNK = 16 << 10  # bytes; small: a piece that is cut off is lost, and a slow server still shows progress
_REDIRECTS = 10
_NUMBER = re.compile(r"[0-9]{1,19}")  # a longer one is nonsense, and int() takes no more than 4300 digits
_GZIP = ("gzip", "x-gzip")  # RFC 9110 8.4.1.3
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")  # RFC 9110 14.4
_REASON = 80  # characters that are shown of a server's own words


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try. Slow is fine; silent for ``stall`` is not.

    ``tries`` counts tries in a row that brought nothing new; ``backoff`` doubles from one to the next.
    """

    connect: float = 15.0
    stall: float = 30.0
    tries: int = 5
    backoff: float = 1.0


@dataclass(frozen=True)
class Downloaded:
    """A complete download, not yet verified. ``url`` is where redirects led."""

    path: Path
    url: str


@dataclass(frozen=True)
class _State:
    """What is kept beside a partial file to resume it. ``total`` is the whole file's size in bytes."""

    url: str
    validator: str
    total: int | None


_STATE = TypeAdapter(_State)


_NO_HTTP = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError)
"""What the libraries raise over an answer that is none. They let through what the layer below them raises:
a negative chunk size is a ValueError of http.client, a wrong header a UnicodeError (which is one)."""


class _Transient(Exception):
    """A failure that another try may fix."""


class NotThere(PiimgError):
    """The server answered that there is no such file (404 or 410)."""


class _Session(requests.Session):
    """A session that follows at most ten redirects, and none from https down to http unless allowed."""

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


def download(
    url: str,
    partial: Path,
    *,
    subject: str,
    reporter: Reporter,
    expected_size: int | None = None,
    pinned: bool = False,
    patience: Patience | None = None,
) -> Downloaded:
    """Download ``url`` into ``partial``, going on where an earlier run stopped.

    ``expected_size`` is in bytes. ``pinned``: the content is checked against a checksum that came by
    another way, so a redirect to plain http is harmless. Raises PiimgError; what has come so far stays
    for the next run unless it can be of no use.
    """
    with (
        task(reporter, "download", subject, expected_size) as downloading,
        _Session(allow_http=pinned) as session,
    ):
        job = _Job(url, partial, subject, reporter, downloading, expected_size, patience or Patience())
        return Downloaded(partial, _persist(job, session))


def discard(partial: Path) -> None:
    """Forget a partial download and what was kept to resume it."""
    partial.unlink(missing_ok=True)
    _state_path(partial).unlink(missing_ok=True)


def read_small(url: str, limit: int, *, patience: Patience | None = None) -> tuple[bytes, str]:
    """The content of a small file at ``url`` and the URL that redirects led to.

    Raises NotThere when there is none, PiimgError when it is larger than ``limit`` bytes or fails.
    """
    patience = patience or Patience()
    with _Session(allow_http=False) as session:
        for attempt in range(1, patience.tries + 1):
            try:
                return _read_once(session, url, limit, patience)
            except _Transient as error:
                if attempt == patience.tries:
                    raise _given_up(url, attempt, error) from error
                time.sleep(patience.backoff * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _read_once(session: _Session, url: str, limit: int, patience: Patience) -> tuple[bytes, str]:
    content = bytearray()
    with _answer(session, url, {}, patience) as response:
        for chunk in _chunks(response):
            content += chunk
            if len(content) > limit:
                break
        document = bytes(content) if len(content) > limit else _decoded(bytes(content), response, limit)
        if len(document) > limit:
            raise PiimgError(f"{shown(url)} is larger than {limit} bytes: refused", "check the URL")
        return document, response.url


def _encoding(response: requests.Response) -> str:
    """The Content-Encoding (RFC 9110 8.4) in lower case; empty when the body is the file itself."""
    encoding = str(response.headers.get("Content-Encoding", "")).strip().lower()
    return "" if encoding == "identity" else encoding


def _decoded(content: bytes, response: requests.Response, limit: int) -> bytes:
    """A small document without its Content-Encoding; at most ``limit`` bytes and one.

    Apache labels ``NAME.gz.sha256`` like ``NAME.gz`` (mod_mime, AddEncoding): what is not gzip by its first
    bytes is returned as it was sent. Raises _Transient when it is damaged.
    """
    if _encoding(response) not in _GZIP or not content.startswith(b"\x1f\x8b"):
        return content
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        document = decoder.decompress(content, limit + 1)
    except zlib.error as error:
        raise _Transient("the answer is damaged") from error
    if not decoder.eof and len(document) <= limit:
        raise _Transient("the connection was cut off")
    return document


@dataclass(frozen=True)
class _Job:
    url: str
    partial: Path
    subject: str
    reporter: Reporter
    task: Task
    expected_size: int | None
    patience: Patience


def _persist(job: _Job, session: _Session) -> str:
    """Try until the file is whole; gives up after some tries in a row that brought nothing.

    New is only what lies beyond all that was ever here: a server that declares more than it sends has every
    other try start over, and would otherwise seem to bring the whole file anew for ever.
    """
    failures = 0
    most = _size(job.partial)
    while True:
        try:
            return _attempt(job, session)
        except _Transient as error:
            have = _size(job.partial)
            failures = 1 if have > most else failures + 1
            most = max(most, have)
            if failures >= job.patience.tries:
                raise _given_up(job.url, failures, error) from error
            job.reporter.emit(Message("info", f"{error}; trying again", job.subject))
            time.sleep(job.patience.backoff * 2 ** (failures - 1))


def _given_up(url: str, tries: int, error: Exception) -> PiimgError:
    return PiimgError(
        f"{shown(url)}: {error} ({tries} tries)", "check the network, then run the same again: it resumes"
    )


def _attempt(job: _Job, session: _Session) -> str:
    """One request for what is missing. Returns the final URL; raises _Transient if another may help."""
    state = _load(job)
    have = _size(job.partial) if state else 0
    if state and have and have == state.total:
        return state.url
    headers = {"Range": f"bytes={have}-", "If-Range": state.validator} if state and have else {}
    with _answer(session, job.url, headers, job.patience) as response:
        if response.status_code == 416 or (
            response.status_code == 206 and not _continues(response, state, have)
        ):
            discard(job.partial)
            raise _Transient("the file on the server changed")
        start = have if response.status_code == 206 else 0
        total = _total(response, start)
        _check_total(job, total, start)
        with writing(f"download {job.subject}"):
            if start == 0:
                _begin(job, response, total)
            _receive(job, response, start, total)
        return response.url


def _load(job: _Job) -> _State | None:
    """What is known of the partial file; None (and the file gone) when it cannot be resumed."""
    try:
        state = _STATE.validate_json(read_regular(_state_path(job.partial), SMALL))
    except (OSError, ValidationError):
        state = None
    if state is None or not state.validator or (state.total is not None and _size(job.partial) > state.total):
        discard(job.partial)
        return None
    return state


def _begin(job: _Job, response: requests.Response, total: int | None) -> None:
    """Start the file at zero. The state is written after the file is empty, before any of its bytes."""
    encoding = _encoding(response)
    if encoding and not (encoding in _GZIP and urlsplit(response.url).path.lower().endswith(".gz")):
        text = (
            f"the server sends it with Content-Encoding: {printable(encoding, 40)}; it is kept as it is sent"
        )
        job.reporter.emit(Message("warning", text, job.subject))
    discard(job.partial)
    job.partial.touch(mode=0o600, exist_ok=False)
    state = _State(shown(response.url), _validator(response), total)
    files.write(_state_path(job.partial), _STATE.dump_json(state), mode=0o600)


def _validator(response: requests.Response) -> str:
    """The strong ETag or else Last-Modified; empty when there is neither (RFC 9110 13.1.5)."""
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    return response.headers.get("Last-Modified", "")


def _continues(response: requests.Response, state: _State | None, have: int) -> bool:
    """Whether a 206 is really the rest of what is here: same file, from the right byte."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if state is None or match is None or int(match[1]) != have:
        return False
    if state.total is not None and match[3] != "*" and int(match[3]) != state.total:
        return False
    return _validator(response) in ("", state.validator)


def _total(response: requests.Response, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if _NUMBER.fullmatch(length) else None


def _check_total(job: _Job, total: int | None, start: int) -> None:
    """Refuse, before a byte is written, what cannot be right or cannot fit."""
    if total is None:
        return
    if job.expected_size is not None and total != job.expected_size:
        discard(job.partial)
        raise PiimgError(
            f"{shown(job.url)} has {total} bytes, not the {job.expected_size} it ought to have",
            "the server has another file than the one that is pinned: check the entry",
        )
    if total > LARGEST:
        raise PiimgError(f"{shown(job.url)} has {total} bytes: refused", "no base image is that large")
    check_room(job.partial.parent, total - start, f"download {job.subject}")


def _receive(job: _Job, response: requests.Response, start: int, total: int | None) -> None:
    job.task.restart(start, total)
    limit = job.expected_size or LARGEST
    with job.partial.open("ab") as output:
        for chunk in _chunks(response):
            output.write(chunk)
            job.task.advance(len(chunk))
            if job.task.done > limit:
                break
    files.sync_file(job.partial)
    done = job.task.done
    if done > limit:
        discard(job.partial)
        raise PiimgError(f"{shown(job.url)} sends more than {limit} bytes: refused", "check the URL")
    if total is not None and done != total:
        raise _Transient(f"the connection was cut off after {done} of {total} bytes")


@contextlib.contextmanager
def _answer(
    session: _Session, url: str, headers: dict[str, str], patience: Patience
) -> Iterator[requests.Response]:
    """The answer, its body unread: 200, 206 or 416. Others raise, _Transient where a later try may do."""
    try:
        response = session.get(url, headers=headers, stream=True, timeout=(patience.connect, patience.stall))
    except requests.TooManyRedirects as error:
        raise PiimgError(
            f"{shown(url)} redirects more than {_REDIRECTS} times", "the server loops: check the URL"
        ) from error
    except requests.exceptions.SSLError as error:
        raise PiimgError(
            f"{shown(url)}: the server's certificate is not valid", "check the clock, the URL and any proxy"
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Transient(_reason(error)) from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise PiimgError(f"{shown(url)} does not work as a URL: {_reason(error)}", "check it") from error
    except _NO_HTTP as error:
        raise PiimgError(
            f"{shown(url)}: the server's answer is not HTTP as it should be ({_reason(error)})",
            "check the URL, and any proxy",
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
        raise NotThere(f"{shown(url)}: {said}", "the file is not there (any more): check the name or the URL")
    if status in (408, 429) or status >= 500:
        raise _Transient(said)
    raise PiimgError(f"{shown(url)}: {said}", "check the URL, and whether it wants a login or a proxy")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it was sent, in small pieces: a server may label NAME.gz with a Content-Encoding.

    Raises _Transient when the connection breaks or stalls, or the answer is broken.
    """
    try:
        yield from response.raw.stream(_CHUNK, decode_content=False)
    except _NO_HTTP as error:
        raise _Transient(_reason(error)) from error


def _reason(error: Exception) -> str:
    """What went wrong on the wire, in a few words: requests' own texts are long and show the URL."""
    text = str(error)
    known = {
        "timed out": "the server stopped answering",
        "IncompleteRead": "the connection was cut off",
        "Connection refused": "the connection was refused",
        "NameResolution": "the server's name is not known",
        "reset by peer": "the connection was reset",
        "without response": "the server closed the connection",
    }
    return next((words for sign, words in known.items() if sign in text), type(error).__name__)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _state_path(partial: Path) -> Path:
    return partial.with_suffix(".json")
