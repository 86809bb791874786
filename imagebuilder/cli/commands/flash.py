"""`piimg flash`: write node images to cards and read them back."""

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from imagebuilder.card.report import CardReport
from imagebuilder.card.rounds import Identity, Rounds
from imagebuilder.card.source import ImageSource
from imagebuilder.cli.errors import print_error
from imagebuilder.cli.fixed_disks import allowing
from imagebuilder.cli.flashing import (
    Choice,
    FlashOutcome,
    WriteOptions,
    finish,
    write_cards,
)
from imagebuilder.cli.image_file import opened_image
from imagebuilder.cli.next_steps import next_steps
from imagebuilder.cli.options import (
    refuse_both,
)
from imagebuilder.cli.output import ask, at_terminal, echo
from imagebuilder.cli.report_file import beside, chosen
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import GracefulStop, graceful_stop
from imagebuilder.cli.sources import node_sources
from imagebuilder.cli.verdicts import describe
from imagebuilder.cli.web.run_page import showing
from imagebuilder.device import policy
from imagebuilder.device.inventory import Candidate, CardChanged, carried_now, present, survey
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image.results import Results, built, read_document
from imagebuilder.workspace import made_folder


def flash(
    session: Session,
    devices: tuple[Path, ...],
    nodes: tuple[str, ...],
    every: bool,
    image: Path | None,
    base: str | None,
    new_keys: bool,
    images: Path | None,
    jobs: int | None,
    yes: bool,
    full: bool,
    no_verify: bool,
    paranoid: bool,
    again: bool,
    reinsert: bool,
    eject: bool,
    fixed: str | None,
    virtual: bool,
    report: str | None,
    as_json: bool,
    web: str | None = None,
) -> None:
    """Run ``piimg flash``, called as ``usage/flash.py`` says."""
    if len(nodes) > 1:
        raise UsageError("one card gets one node", "for several cards: piimg flash --all")
    node = nodes[0] if nodes else None
    if sum((node is not None, every, image is not None)) > 1:
        raise UsageError("--node, --all and --image exclude each other", "use one of them")
    refuse_both(paranoid, no_verify)
    if base is not None and (image or images):
        raise UsageError("--base is for nodes that piimg prepares, not for images", "omit one of them")
    if every and fixed is not None:
        raise UsageError(
            "--all never writes to a fixed disk", "write it alone: DEVICE --node NAME --allow-fixed"
        )
    if reinsert and fixed is not None:
        raise UsageError("--reinsert is for cards only", "read the disk once more with: piimg verify")
    how = WriteOptions(
        yes,
        verify=not no_verify,
        full=full,
        virtual=virtual,
        jobs=jobs,
        eject=eject,
        again=again,
        paranoid=paranoid,
        reinsert=reinsert,
        fixed=fixed,
    )
    if every and yes and not devices:
        raise UsageError(
            "with --all and --yes the cards must be named, or any card in any slot would be erased",
            "name them, or omit --yes to see first what would be done",
        )
    saved = None if report is None else chosen(report, as_json)
    with (
        showing(session, web, "flash"),
        graceful_stop(session.stop, session.reporter) as graceful,
    ):
        if image is not None:
            finish(_flash_image(session, graceful, devices, image, how), saved, as_json)
            return
        if every:
            outcome = _flash_all(session, graceful, devices, base, images, how, new_keys)
        else:
            outcome = _flash_one(session, graceful, devices, node, base, images, how, new_keys)
        folder = images or made_folder(session.workspace.images, session.workspace.folder)
        report_to = saved or beside(folder / "flash-report.json", session.workspace.folder)
        finish(outcome, report_to, as_json, next_steps(session, outcome.done))


def _flash_image(
    session: Session, graceful: GracefulStop, devices: Sequence[Path], image: Path, how: WriteOptions
) -> FlashOutcome:
    if not devices:
        raise UsageError("which card?", "name one or more; see them with: piimg cards")
    with contextlib.ExitStack() as opened:
        with graceful.interruptible():
            source = opened.enter_context(opened_image(session, image))
            named = allowing(present(devices, how.virtual), how.fixed)
            found = survey(named, how.virtual, source.size)
            session.show_page()
        choices = [Choice(one, source) for one in found]
        return FlashOutcome(write_cards(session, graceful, choices, how, source.notes))


def _flash_one(
    session: Session,
    graceful: GracefulStop,
    devices: Sequence[Path],
    node: str | None,
    base: str | None,
    images: Path | None,
    how: WriteOptions,
    new_keys: bool = False,
) -> FlashOutcome:
    if len(devices) != 1:
        raise UsageError(
            "name one card" if devices else "which card?",
            "see them with: piimg cards; for several at once: --all, or --image FILE",
        )
    with contextlib.ExitStack() as stack:
        with graceful.interruptible():
            (candidate,) = survey(allowing(present(devices, how.virtual), how.fixed), how.virtual)
            policy.check(candidate.disk, candidate.holdings, None, how.virtual)
            chosen = node or _node_for(session, candidate, images)
            session.show_page()
            sources = stack.enter_context(
                node_sources(
                    session,
                    [chosen],
                    base=base,
                    images=images,
                    new_keys=new_keys,
                    cards=[candidate.carried],
                    name_others=True,
                )
            )
        session.reporter.goals([chosen])
        return FlashOutcome(write_cards(session, graceful, [Choice(candidate, sources[chosen], chosen)], how))


def _node_for(session: Session, candidate: Candidate, images: Path | None) -> str:
    """The node for a card when the user named none; it is never guessed."""
    carried = candidate.meant
    if images is None:
        nodes, cluster = [node.name for node in session.cluster.nodes], session.cluster.name
    else:
        nodes = list(built(images))
        cluster = _cluster_of(images, carried.node) if carried.node in nodes else ""
    if carried.node in nodes and carried.cluster == cluster:
        return carried.node
    if len(nodes) == 1:
        return nodes[0]
    if not nodes:
        how = f"build them first: piimg build --all --output {shlex.quote(str(images))}"
        raise UsageError(f"no node is built in {images}", how)
    if not at_terminal():
        raise UsageError(
            f"which node is {candidate.disk.node} for?", f"add --node with one of {', '.join(nodes)}"
        )
    return ask(f"{candidate.disk.node} carries none of these nodes. Which node should it get?", nodes)


def _cluster_of(folder: Path, node: str) -> str:
    """The cluster of a built node: another cluster may have a node of the same name."""
    return str(read_document(Results(folder, node).json).get("cluster"))


def _flash_all(
    session: Session,
    graceful: GracefulStop,
    devices: Sequence[Path],
    base: str | None,
    images: Path | None,
    how: WriteOptions,
    new_keys: bool = False,
) -> FlashOutcome:
    """Write every node of the manifest, in rounds of cards; in one round without a terminal."""
    with contextlib.ExitStack() as stack:
        with graceful.interruptible():
            for card in survey(present(devices, how.virtual), how.virtual) if devices else ():
                policy.check(card.disk, card.holdings, None, how.virtual)
            session.cluster  # noqa: B018 - an error in the manifest is reported before the page
            session.show_page()
            sources = stack.enter_context(
                node_sources(
                    session,
                    (),
                    base=base,
                    images=images,
                    new_keys=new_keys,
                    cards=carried_now(devices, how.virtual),
                )
            )
        session.reporter.goals(list(sources))
        return _rounds(session, graceful, devices, sources, how)


def _rounds(
    session: Session,
    graceful: GracefulStop,
    devices: Sequence[Path],
    sources: Mapping[str, ImageSource],
    how: WriteOptions,
) -> FlashOutcome:
    """Write ``sources`` in rounds of cards, until each has a good card or there are no more cards."""
    need = max(source.size for source in sources.values())

    def look() -> list[Candidate]:
        # Between rounds a named device may be missing for a while.
        there = [device for device in devices if not rounds.reports or device.exists()]
        return survey(present(there, how.virtual), how.virtual, need) if there or not devices else []

    def returned(card: Candidate) -> None:
        echo(f"{card.disk.node} carries {card.carried.node}, which is done: take it out", err=True)

    rounds, stopped = Rounds(sources, session.cluster.name, look, returned), False
    try:
        with graceful.interruptible():
            cards = _first_cards(session, rounds, devices, how, need)
        while cards:
            written = _round(session, graceful, rounds, cards, sources, how)
            if session.stop.is_set() or not rounds.remaining or not at_terminal():
                break
            if written:
                echo(describe(written), err=True)
            with graceful.interruptible():
                cards = _next_cards(session, rounds)
    except (PiimgError, OSError) as error:
        if not rounds.reports:
            raise
        print_error(error, session.reporter)  # finished cards keep their report
    except (click.Abort, KeyboardInterrupt):
        if not rounds.reports:
            raise
        stopped = True
    stopped = stopped or (session.stop.is_set() and bool(rounds.remaining))
    return FlashOutcome(rounds.reports, rounds.remaining, stopped)


def _round(
    session: Session,
    graceful: GracefulStop,
    rounds: Rounds,
    cards: Sequence[Candidate],
    sources: Mapping[str, ImageSource],
    how: WriteOptions,
) -> list[CardReport]:
    """Write one round of cards; none if one of them changed while the question was open."""
    pairing, handled = rounds.pair(cards), dict[str, Identity]()
    choices = [Choice(card, sources[node], node) for node, card in pairing.pairs]
    # --yes does not cover cards that are put in later.
    asked = replace(how, yes=how.yes and not rounds.reports)
    try:
        written = write_cards(session, graceful, choices, asked, pairing.notes, handled)
    except CardChanged as error:
        if not rounds.reports:
            raise
        print_error(error, session.reporter)
        return []
    rounds.record(written, handled)
    return written


def _first_cards(
    session: Session, rounds: Rounds, devices: Sequence[Path], how: WriteOptions, need: int
) -> list[Candidate]:
    """The named cards, which must all be writable, else all writable cards; at a terminal, waits for some."""
    found = rounds.look()
    if devices:
        for card in found:
            policy.check(card.disk, card.holdings, need, how.virtual)
        return found
    fit = [card for card in found if not card.refusals]
    if not fit and not at_terminal():
        raise UsageError("there is no card to write to", "see why with: piimg cards")
    return fit or _next_cards(session, rounds)


def _next_cards(session: Session, rounds: Rounds) -> list[Candidate]:
    """Ask for cards for the remaining nodes and wait until there are some. Raises KeyboardInterrupt."""
    session.show_code()
    session.reporter.wants(rounds.remaining)
    echo(f"Nodes without a good card: {', '.join(rounds.remaining)}.", err=True)
    echo("Put the next cards in, and take out the ones that are done. (Ctrl-C to end)", err=True)
    return rounds.next_cards()
