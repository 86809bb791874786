"""HTTP: streaming downloads that resume, and small files. The only place that uses requests.

A download grows in a ``.partial`` file; beside it lies what the server said of the file (its *validator*:
a strong ETag, else Last-Modified, RFC 9110 8.8). The next try asks for the rest with ``Range`` and
``If-Range``, so a file that changed meanwhile, or a server that ignores ranges, starts from zero.
"""

import re
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
    Patience,
    Session,
    Transient,
    UnknownName,
    answer,
    chunks,
    decoded,
    encoding_of,
)
from imagebuilder.base.space import check_room, writing
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.progress import Task, task
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.system import files
from imagebuilder.text import printable

LARGEST = 32 << 30
"""Bytes; no download is larger than this."""

_NUMBER = re.compile(r"[0-9]{1,19}")  # a longer one is nonsense, and int() takes no more than 4300 digits
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")  # RFC 9110 14.4


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
        Session(allow_http=pinned) as session,
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
    with Session(allow_http=False) as session:
        for attempt in range(1, patience.tries + 1):
            try:
                return _read_once(session, url, limit, patience)
            except Transient as error:
                if attempt >= _most_tries(error, patience, begun=False):
                    raise _given_up(url, attempt, error) from error
                time.sleep(patience.backoff * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _read_once(session: Session, url: str, limit: int, patience: Patience) -> tuple[bytes, str]:
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


def _persist(job: _Job, session: Session) -> str:
    """Try until the file is whole; gives up after some tries in a row that brought nothing.

    New is only what lies beyond all that was ever here: a server that declares more than it sends has every
    other try start over, and would otherwise seem to bring the whole file anew for ever.
    """
    failures = 0
    begun = False
    reported = ""
    most = _size(job.partial)
    while True:
        try:
            return _attempt(job, session)
        except Transient as error:
            have = _size(job.partial)
            if have > most:
                failures, most, begun, reported = 0, have, True, ""
            failures += 1
            if failures >= _most_tries(error, job.patience, begun=begun):
                raise _given_up(job.url, failures, error) from error
            if str(error) != reported:  # once for each reason in a row
                reported = str(error)
                job.reporter.emit(Message("info", f"{error}; trying again", job.subject))
            time.sleep(job.patience.backoff * 2 ** (failures - 1))


def _given_up(url: str, tries: int, error: Exception) -> PiimgError:
    return PiimgError(
        f"{shown(url)}: {error} ({tries} {'try' if tries == 1 else 'tries'})",
        f"check the network, then run the same again: it resumes;\n{OWN_FILE}",
    )


def _most_tries(error: Transient, patience: Patience, *, begun: bool) -> int:
    """How many tries in a row may fail. A name that is not known at the start is seldom known soon."""
    return min(2, patience.tries) if isinstance(error, UnknownName) and not begun else patience.tries


def _attempt(job: _Job, session: Session) -> str:
    """One request for what is missing. Returns the final URL; raises Transient if another may help."""
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
    encoding = encoding_of(response)
    if encoding and not (encoding in GZIP and urlsplit(response.url).path.lower().endswith(".gz")):
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
        for chunk in chunks(response):
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
        raise Transient(f"the connection was cut off after {done} of {total} bytes")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _state_path(partial: Path) -> Path:
    return partial.with_suffix(".json")
