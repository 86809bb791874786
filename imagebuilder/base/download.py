"""Downloads over HTTP that resume, and small files.

A download is written to a ``.partial`` file. Beside it, a JSON file keeps the server's *validator* of the
content: a strong ETag, else Last-Modified (RFC 9110 8.8). The next try requests the rest with ``Range`` and
``If-Range``. If the file changed, or the server ignores ranges, the download starts from zero.
"""

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from pydantic import TypeAdapter, ValidationError

from imagebuilder.base.catalogue import shown
from imagebuilder.base.request import (
    GZIP,
    OWN_FILE,
    HttpSession,
    Patience,
    Transient,
    UnknownName,
    answer,
    chunks,
    decoded,
    encoding_of,
)
from imagebuilder.base.space import check_room, writing
from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.progress import Task, task
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.system import files
from imagebuilder.text import printable

LARGEST = 32 << 30
"""Bytes; no download is larger than this."""

_NUMBER = re.compile(r"[0-9]{1,19}")  # bounded: int() raises for more than 4300 digits
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")  # RFC 9110 14.4


@dataclass(frozen=True)
class Downloaded:
    """A complete download, not yet verified. ``url`` is the URL after redirects."""

    path: Path
    url: str


@dataclass(frozen=True)
class _State:
    """The record beside a partial file, to resume it. ``total`` is the size of the whole file in bytes."""

    url: str
    validator: str
    total: int | None


_STATE = TypeAdapter(_State)


def download(
    url: str,
    partial: Path,
    *,
    subject: str,
    reporter: Reporter,
    expected_size: int | None = None,
    pinned: bool = False,
    patience: Patience | None = None,
    stop: threading.Event | None = None,
) -> Downloaded:
    """Download ``url`` into ``partial``; resume where an earlier run stopped.

    ``expected_size`` is in bytes. ``pinned``: the content is checked against a checksum from another source,
    so a redirect to plain http is harmless. ``stop``, which any thread may set, ends it with Interrupted.
    Raises PiimgError; the partial file is kept for the next run, unless it is of no use.
    """
    patience, stop = patience or Patience(), stop or threading.Event()
    with (
        task(reporter, "download", subject, expected_size) as downloading,
        HttpSession(allow_http=pinned) as session,
    ):
        job = _Job(url, partial, subject, reporter, downloading, expected_size, patience, stop)
        return Downloaded(partial, _persist(job, session))


def discard(partial: Path) -> None:
    """Remove a partial download and its record."""
    partial.unlink(missing_ok=True)
    _state_path(partial).unlink(missing_ok=True)


def read_small(url: str, limit: int, *, patience: Patience | None = None) -> tuple[bytes, str]:
    """The content of the small file at ``url``, and the URL after redirects.

    Raises NotThere when there is no such file, PiimgError when it is larger than ``limit`` bytes or cannot be
    downloaded.
    """
    patience = patience or Patience()
    with HttpSession(allow_http=False) as session:
        for attempt in range(1, patience.tries + 1):
            try:
                return _read_once(session, url, limit, patience)
            except Transient as error:
                if attempt >= _most_tries(error, patience, begun=False):
                    raise _given_up(url, attempt, error) from error
                time.sleep(patience.backoff * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _read_once(session: HttpSession, url: str, limit: int, patience: Patience) -> tuple[bytes, str]:
    content = bytearray()
    with answer(session, url, {}, patience) as response:
        for chunk in chunks(response):
            content += chunk
            if len(content) > limit:
                break
        document = bytes(content) if len(content) > limit else decoded(bytes(content), response, limit)
        if len(document) > limit:
            raise PiimgError(f"{shown(url)} is larger than {limit} bytes: refused", "check the URL")
        return document, response.url


@dataclass(frozen=True)
class _Job:
    url: str
    partial: Path
    subject: str
    reporter: Reporter
    task: Task
    expected_size: int | None
    patience: Patience
    stop: threading.Event

    def check_stop(self, seconds: float = 0.0) -> None:
        """Wait for ``seconds``. Raises Interrupted if the download is to stop meanwhile."""
        if self.stop.wait(seconds):
            raise Interrupted(f"the download of {self.subject} was stopped", "the next run resumes it")


def _persist(job: _Job, session: HttpSession) -> str:
    """Try until the file is complete; give up after several tries in a row without progress.

    Only bytes beyond the largest size so far are progress. A server that declares more than it sends makes
    every second try start over, and would otherwise be retried without end.
    """
    failures = 0
    begun = False
    reported = ""
    most = _size(job.partial)
    while True:
        job.check_stop()
        try:
            return _attempt(job, session)
        except Transient as error:
            have = _size(job.partial)
            if have > most:
                failures, most, begun, reported = 0, have, True, ""
            failures += 1
            if failures >= _most_tries(error, job.patience, begun=begun):
                raise _given_up(job.url, failures, error) from error
            if str(error) != reported:  # the same reason in a row is reported once
                reported = str(error)
                job.reporter.emit(Message("info", f"{error}; trying again", job.subject))
            job.check_stop(job.patience.backoff * 2 ** (failures - 1))


def _given_up(url: str, tries: int, error: Exception) -> PiimgError:
    return PiimgError(
        f"{shown(url)}: {error} ({tries} {'try' if tries == 1 else 'tries'})",
        f"check the network, then run the same again: it resumes;\n{OWN_FILE}",
    )


def _most_tries(error: Transient, patience: Patience, *, begun: bool) -> int:
    """The number of tries in a row that may fail: few when a name is not known before anything arrived."""
    return min(2, patience.tries) if isinstance(error, UnknownName) and not begun else patience.tries


def _attempt(job: _Job, session: HttpSession) -> str:
    """One request for the missing bytes. Returns the final URL; raises Transient if another try may help."""
    state = _load(job)
    have = _size(job.partial) if state else 0
    if state and have and have == state.total:
        return state.url
    headers = {"Range": f"bytes={have}-", "If-Range": state.validator} if state and have else {}
    with answer(session, job.url, headers, job.patience) as response:
        if response.status_code == 416 or (
            response.status_code == 206 and not _continues(response, state, have)
        ):
            discard(job.partial)
            raise Transient("the file on the server changed")
        start = have if response.status_code == 206 else 0
        total = _total(response, start)
        _check_total(job, total, start)
        with writing(f"download {job.subject}"):
            if start == 0:
                _begin(job, response, total)
            _receive(job, response, start, total)
        return response.url


def _load(job: _Job) -> _State | None:
    """The record of the partial file. If it cannot be resumed, the file is removed and None returned."""
    try:
        state = _STATE.validate_json(read_regular(_state_path(job.partial), SMALL))
    except (OSError, ValidationError):
        state = None
    if state is None or not state.validator or (state.total is not None and _size(job.partial) > state.total):
        discard(job.partial)
        return None
    return state


def _begin(job: _Job, response: requests.Response, total: int | None) -> None:
    """Create the partial file, empty, and then its record, before any byte is written."""
    encoding = encoding_of(response)
    if encoding and not (encoding in GZIP and urlsplit(response.url).path.lower().endswith(".gz")):
        text = f"the server sends it with Content-Encoding: {printable(encoding, 40)}; used as it is sent"
        job.reporter.emit(Message("warning", text, job.subject))
    discard(job.partial)
    job.partial.touch(mode=0o600, exist_ok=False)
    state = _State(shown(response.url), _validator(response), total)
    files.write(_state_path(job.partial), _STATE.dump_json(state), mode=0o600)


def _validator(response: requests.Response) -> str:
    """The strong ETag, else Last-Modified; empty when there is neither (RFC 9110 13.1.5)."""
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    return response.headers.get("Last-Modified", "")


def _continues(response: requests.Response, state: _State | None, have: int) -> bool:
    """Whether a 206 is the rest of the partial file: the same file, from the right byte."""
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
    """Raise PiimgError, before a byte is written, for a size that is wrong or too large for the disk."""
    if total is None:
        return
    if job.expected_size is not None and total != job.expected_size:
        discard(job.partial)
        raise PiimgError(
            f"{shown(job.url)} has {total} bytes, not the expected {job.expected_size}",
            "the server has another file than the pinned one: check its entry in images.toml",
        )
    if total > LARGEST:
        raise PiimgError(f"{shown(job.url)} has {total} bytes: refused", "no base image is that large")
    check_room(job.partial.parent, total - start, f"download {job.subject}")


def _receive(job: _Job, response: requests.Response, start: int, total: int | None) -> None:
    job.task.restart(start, total)
    limit = job.expected_size or LARGEST
    with job.partial.open("ab") as output:
        for chunk in chunks(response):
            output.write(chunk)
            job.check_stop()
            job.task.advance(len(chunk))
            if job.task.done > limit:
                break
    files.sync_file(job.partial)
    done = job.task.done
    if done > limit:
        discard(job.partial)
        raise PiimgError(f"{shown(job.url)} sends more than {limit} bytes: refused", "check the URL")
    if total is not None and done != total:
        raise Transient(f"the connection was cut off after {done} of {total} bytes")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _state_path(partial: Path) -> Path:
    return partial.with_suffix(".json")
