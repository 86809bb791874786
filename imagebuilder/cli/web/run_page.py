"""``--web``: show a run on a page. The address, the token, and what is known when the run begins."""

import contextlib
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imagebuilder.cli.format import duration, size
from imagebuilder.cli.history import cluster_of, events_of
from imagebuilder.cli.output import echo, echo_code
from imagebuilder.cli.session import Session
from imagebuilder.cli.web.address import PageAddress, is_loopback, listening, parsed, shown_place
from imagebuilder.cli.web.feed import Answers, Serving, fed, new_token
from imagebuilder.cli.web.follower import Followed
from imagebuilder.cli.web.page import Page
from imagebuilder.cli.web.state import HistoryRow, NodeState, Start
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message
from imagebuilder.history.store import Begun, Ended, Event, shown
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.requirements.host import this_host
from imagebuilder.requirements.optional import missing_web, web_fix
from imagebuilder.system import files

TOKEN_FILE = "web-token"
_ROWS = 30  # of the history
_LOCAL = ("localhost", "[::1]")  # names of this machine, besides the number


@contextlib.contextmanager
def showing(session: Session, web: str | None, command: str, control: bool = False) -> Iterator[Answers]:
    """Show what is reported in the block on a page, if ``web`` is an address; and take its answers.

    Its address is printed by ``show_page`` and ``show_code`` of the session. Raises UsageError for an address
    that is none, and without the libraries. If the address cannot be used, for example because the port is in
    use, there is a warning, and no page.
    """
    answers = Answers()
    if web is None:
        if control:
            raise UsageError("--web-control needs a page", "add --web")
        yield answers
        return
    address = parsed(web)
    _check_libraries()
    try:
        listener = listening(address)
    except OSError as error:
        text = f"there is no page: {address}: {error.strerror}; everything else goes on"
        session.reporter.emit(Message("warning", text))
        yield answers
        return
    with listener:
        token = "" if is_loopback(listener) and not control else _token(session)
        hosts = (*_LOCAL, shown_place(listener).rpartition(":")[0]) if is_loopback(listener) else ()
        place = shown_place(listener)
        session.show_page = _once(lambda: _announce(session, place, token))
        session.show_code = _once(lambda: _show_code(session, place, token))
        page, shown_by = Page(_start(session, command, control)), session.reporter
        session.reporter = Followed(shown_by, page)
        try:
            with fed(listener, Serving(token, hosts, control), page, answers, shown_by):
                yield answers
        finally:
            session.reporter = shown_by


def _check_libraries() -> None:
    if missing := missing_web():
        raise UsageError(
            f"--web needs libraries that are not installed: {', '.join(missing)}",
            web_fix(this_host(Path.cwd())),
        )


def _token(session: Session) -> str:
    """The token of the cluster, which stays the same until its file is removed; without a cluster a new one.

    Raises UsageError when it can neither be kept nor shown.
    """
    if not cluster_of(session):
        if not sys.stderr.isatty():
            raise UsageError(
                "the address of the page has a token, and there is no terminal to show it at",
                f"use {PageAddress()}, or a cluster's folder, which keeps the token in a file",
            )
        return new_token()
    place = session.workspace
    file = place.state / TOKEN_FILE
    try:
        with contextlib.suppress(FileNotFoundError):
            kept = read_regular(file, SMALL).decode("ascii", "replace").strip()
            if re.fullmatch(r"[\w-]{22,64}", kept, re.ASCII):
                return kept
        token = new_token()
        files.make_private(place.state, place.folder)
        files.write(file, f"{token}\n".encode(), 0o600)
        files.hand_over(file, place.folder)
    except OSError as error:
        raise PiimgError(
            f"the token of the page cannot be kept: {file}: {error.strerror}",
            "the cluster's folder must be writable",
        ) from error
    return token


def _announce(session: Session, place: str, token: str) -> None:
    """Show where the page is. The token is shown at a terminal only, and reaches no log."""
    if not token:
        echo(f"page: http://{place}/", err=True)
    elif sys.stderr.isatty():
        url = f"http://{place}/{token}/"
        echo(f"page: {url}", err=True, logged=False)
    else:
        file = session.workspace.state / TOKEN_FILE
        echo(f"page: http://{place}/TOKEN/, with the token in {file}", err=True)


def _show_code(session: Session, place: str, token: str) -> None:
    """Print the QR code of the page at a terminal; a page for this machine only has none."""
    session.show_page()
    if token and sys.stderr.isatty():
        from imagebuilder.cli.web.qr import code_lines  # imports segno, which takes time

        echo_code(code_lines(f"http://{place}/{token}/"))


def _once(show: Callable[[], None]) -> Callable[[], None]:
    """``show``, which does nothing when it is called again."""
    left = [show]
    return lambda: left.pop()() if left else None


def _start(session: Session, command: str, control: bool) -> Start:
    cluster, nodes = cluster_of(session), tuple[NodeState, ...]()
    if cluster:
        nodes = tuple(
            NodeState(node.name, node.role, node.board.title, node.host) for node in session.cluster.nodes
        )
    return Start(secrets.token_hex(4), command, cluster, nodes, history_rows(events_of(session)), control)


def history_rows(events: Sequence[Event]) -> tuple[HistoryRow, ...]:
    """The last runs that have ended, the newest first."""
    begun = {event.run: event for event in events if isinstance(event, Begun)}
    ended = [event for event in events if isinstance(event, Ended)][: -_ROWS - 1 : -1]
    return tuple(_row(event, begun.get(event.run)) for event in ended)


def _row(event: Ended, start: Begun | None) -> HistoryRow:
    where = f"{start.slot}, " if start else ""
    return HistoryRow(
        shown(event.time),
        event.node,
        f"{where}{size(event.size)}",
        event.verdict.value,
        duration(event.seconds),
        event.error,
    )
