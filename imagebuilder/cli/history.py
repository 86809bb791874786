"""The history of cards for the commands. It exists where there is a manifest without errors."""

from collections.abc import Iterator, Mapping, Sequence

from imagebuilder.card.source import Piece
from imagebuilder.cli.output import echo
from imagebuilder.cli.session import Session
from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import Carried
from imagebuilder.errors import PiimgError
from imagebuilder.history.block_maps import earlier_in
from imagebuilder.history.recorder import PlannedRun, Recorder
from imagebuilder.history.store import FILE, Event, History, runs_of
from imagebuilder.history.warnings import Past, notes_from, past

_SHOWN = 10  # runs of a card


def history_of(session: Session) -> History | None:
    """The history in the cluster's state folder; None without a cluster."""
    try:
        place = session.workspace if session.has_manifest else None
        return History(place.state / FILE, place.folder) if place else None
    except PiimgError:
        return None  # commands that need the manifest report its errors


def events_of(session: Session) -> Sequence[Event]:
    """All events of the history. A file that cannot be read is only a warning: it is not needed to write."""
    history = history_of(session)
    try:
        return history.read() if history else ()
    except OSError as error:
        assert history is not None, "there was something to read"
        echo(f"warning: {history.file} cannot be read: {error.strerror}", err=True)
        return ()


def past_of(session: Session, disk: Disk) -> Past:
    """The history of the card in ``disk``."""
    return past(runs_of(events_of(session), disk), disk)


def notes_on(session: Session, disks: Sequence[Disk]) -> Iterator[str]:
    """Notes from the history about cards that are about to be written."""
    events = events_of(session)
    return notes_from((disk, past(runs_of(events, disk), disk)) for disk in disks)


def earlier_on(session: Session, carried: Carried) -> Sequence[Sequence[Piece]]:
    """The pieces that earlier runs may have written to a card that carries this node."""
    return list(earlier_named(session, carried).values())


def earlier_named(session: Session, carried: Carried) -> Mapping[str, Sequence[Piece]]:
    """The same, by the name of each block map."""
    if not carried.node or carried.cluster != cluster_of(session):
        return {}
    return earlier_in(session.workspace.state, session.workspace.folder).named(carried.node)


def cluster_of(session: Session) -> str:
    """The name of the cluster; empty where there is no manifest, or one with errors."""
    try:
        return session.cluster.name if session.has_manifest else ""
    except PiimgError:
        return ""


def recorder_for(session: Session, plans: Sequence[PlannedRun]) -> Recorder | None:
    """A reporter that records the history of the cards of ``plans``; None without a cluster."""
    history = history_of(session)
    if history is None:
        return None
    return Recorder(session.reporter, history, {str(plan.disk.node): plan for plan in plans})


def document(events: Sequence[Event], disk: Disk) -> list[dict[str, object]]:
    """The last runs on the card in ``disk``, the newest first, as data for JSON."""
    found: list[dict[str, object]] = []
    for run in reversed(runs_of(events, disk)[-_SHOWN:]):
        begun, ended = run.begun, run.ended
        found.append(
            {
                "begun": begun.time if begun else None,
                "ended": ended.time if ended else None,
                "node": run.latest.node,
                "image": begun.image if begun else None,
                "verdict": ended.verdict.value if ended else None,
                "offset": ended.offset if ended else None,
                "error": ended.error if ended else None,
            }
        )
    return found
