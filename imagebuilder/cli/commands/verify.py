"""`piimg verify`: compare cards with what the manifest gives, and find out whether they were booted."""

import contextlib
import shlex
from pathlib import Path

import click

from imagebuilder.card.boot_state import never_flashed
from imagebuilder.card.source import ImageSource, prepared_source
from imagebuilder.card.verification import disk_to_verify
from imagebuilder.cli.card_comparison import (
    Outcome,
    Wanted,
    compared,
    examined,
    interrupted,
    log_outcome,
    whole_image,
)
from imagebuilder.cli.flashing import SOME_FAILED
from imagebuilder.cli.image_file import opened_image
from imagebuilder.cli.output import echo, echo_json, echo_verdicts
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import INTERRUPTED, GracefulStop, graceful_stop
from imagebuilder.cli.sources import image_source, prepared_nodes
from imagebuilder.cli.verify_text import document_of, document_of_all, text_of, text_of_all
from imagebuilder.device import policy
from imagebuilder.device.discovery import find_disks
from imagebuilder.device.identity import Carried, carried
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image.prepared import PreparedNode
from imagebuilder.image.results import Results, built, read_document


def verify(
    session: Session,
    device: Path | None,
    every: bool,
    node: str | None,
    image: Path | None,
    base: str | None,
    images: Path | None,
    virtual: bool,
    as_json: bool,
) -> None:
    """Verify one card, or every card that is in, print the result, and exit with its exit code."""
    if node is not None and image is not None:
        raise UsageError("--node and --image exclude each other", "use one of them")
    if every and (device or node or image):
        raise UsageError("--all takes every card with the node that it carries", "omit the rest")
    if device is None and not every:
        raise UsageError("which card?", "name one, or use --all; see them with: piimg cards")
    with contextlib.ExitStack() as stack, graceful_stop(session.stop, session.reporter) as graceful:
        if device is None:
            outcomes = _all(session, stack, graceful, base, images, virtual)
            session.settle()
            echo_json(document_of_all(outcomes)) if as_json else echo_verdicts(text_of_all(outcomes))
        else:
            with graceful.interruptible():
                if image is not None:
                    source = stack.enter_context(opened_image(session, image))
                    for note in source.notes:
                        echo(f"note: {note}", err=True)
                    disk = disk_to_verify(device, session.reporter)
                    found: tuple[Outcome, Wanted | None] = (Outcome(disk), Wanted(disk, "", source))
                else:
                    found = _one(session, stack, device, node, base, images)
            outcomes = compared(session, [found])
            graceful.work_ended()
            session.settle()
            echo_json(document_of(outcomes[0])) if as_json else echo_verdicts(text_of(outcomes[0]))
        for outcome in outcomes:
            log_outcome(outcome)
    if interrupted(outcomes):
        raise click.exceptions.Exit(INTERRUPTED)
    if not all(outcome.good for outcome in outcomes):
        raise click.exceptions.Exit(SOME_FAILED)


def _one(
    session: Session,
    stack: contextlib.ExitStack,
    device: Path,
    named: str | None,
    base: str | None,
    images: Path | None,
) -> tuple[Outcome, Wanted | None]:
    """Examine one card: against the node that is named, else the one that it carries.

    ``stack`` holds open what its bytes are still to be compared with, if they are. Raises PiimgError.
    """
    disk = disk_to_verify(device, session.reporter)
    found = carried(disk.node)
    node = named or _carried_node(session, found, images)
    if node is None:
        clusters = ", ".join(sorted(_clusters(session, images)))
        return Outcome(disk, state=never_flashed(disk.node, found, cluster=clusters)), None
    if images is not None:
        wanted = Wanted(disk, node, image_source(session, node, images), found)
        return examined(session, wanted, Results(images, node).image, named=bool(named))
    keys = session.workspace.keys(on_a_card=found.cluster == session.cluster.name)
    (prepared,) = stack.enter_context(prepared_nodes(session, [node], base, keys=keys))
    wanted = Wanted(disk, node, prepared_source(prepared), found)
    with whole_image(session, prepared) as image:
        return examined(session, wanted, image, named=bool(named))


def _all(
    session: Session,
    stack: contextlib.ExitStack,
    graceful: GracefulStop,
    base: str | None,
    images: Path | None,
    virtual: bool,
) -> list[Outcome]:
    """Verify every card that is in, each against the node that it carries. Raises PiimgError."""
    with graceful.interruptible():
        disks = [disk for disk in find_disks(virtual) if disk.has_medium and not policy.kind(disk, virtual)]
        if not disks:
            raise UsageError("there is no card to verify", "see the slots with: piimg cards")
        cards = [(disk, carried(disk.node)) for disk in disks]
        nodes = [_known_node(session, found, images) for _, found in cards]
        wanted = list(dict.fromkeys(node for node in nodes if node))
        sources: dict[str, ImageSource] = {}
        prepared: dict[str, PreparedNode] = {}
        if images is not None:
            sources = {node: image_source(session, node, images) for node in wanted}
        elif wanted:
            keys = session.workspace.keys(on_a_card=True)
            made = stack.enter_context(prepared_nodes(session, wanted, base, keys=keys))
            prepared = {node.node: node for node in made}
            sources = {name: prepared_source(node) for name, node in prepared.items()}
        clusters = ", ".join(sorted(_clusters(session, images)))
        outcomes: list[tuple[Outcome, Wanted | None]] = []
        for (disk, found), node in zip(cards, nodes, strict=True):
            try:
                disk_to_verify(disk.node, session.reporter)
                if node:
                    this = Wanted(disk, node, sources[node], found)
                    if images is not None:
                        outcomes.append(examined(session, this, Results(images, node).image, named=False))
                    else:
                        with whole_image(session, prepared[node]) as image:
                            outcomes.append(examined(session, this, image, named=False))
                else:
                    state = never_flashed(disk.node, found, cluster=clusters)
                    outcomes.append((Outcome(disk, state=state), None))
            except PiimgError as error:
                outcomes.append((Outcome(disk, node, refused=error), None))
    done = compared(session, outcomes)
    graceful.work_ended()
    return done


def _known_node(session: Session, found: Carried, images: Path | None) -> str:
    """The node that a card carries, if it is one of this manifest, or in ``images``; else empty."""
    if not found.node or found.cluster not in _clusters(session, images):
        return ""
    known = built(images) if images is not None else [node.name for node in session.cluster.nodes]
    return found.node if found.node in known else ""


def _carried_node(session: Session, found: Carried, images: Path | None) -> str | None:
    """The node that a card carries; None when it is of no cluster that is known here.

    Raises UsageError when it is a node of such a cluster that is not known.
    """
    clusters = _clusters(session, images)
    if not clusters:
        raise UsageError(
            f"no node is built in {images}",
            f"build them: piimg build --all --output {shlex.quote(str(images))}; or use --image FILE",
        )
    if not found.node or found.cluster not in clusters:
        return None
    if images is None and found.node not in [node.name for node in session.cluster.nodes]:
        raise UsageError(
            f"the card carries {found.node} of {found.cluster}, which the manifest does not have",
            "name the node that it should carry with --node",
        )
    if images is not None and found.node not in built(images):
        raise UsageError(
            f"the card carries {found.node} of {found.cluster}, which is not built in {images}",
            f"piimg build --node {found.node}; or name the node that it should carry with --node",
        )
    return found.node


def _clusters(session: Session, images: Path | None) -> frozenset[str]:
    """The manifest's cluster, or those with nodes built in ``images``; normally there is one."""
    if images is None:
        return frozenset([session.cluster.name])
    documents = (read_document(Results(images, node).json) for node in built(images))
    return frozenset(str(document.get("cluster")) for document in documents)
