"""`piimg verify`: compare a card with what the manifest gives, and find out whether it was booted."""

import contextlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from imagebuilder.builder import prepared_folder
from imagebuilder.card.boot_state import BootState, CardState, never_flashed, state_of
from imagebuilder.card.report import CardReport, Verdict, document
from imagebuilder.card.source import ImageSource, prepared_source
from imagebuilder.card.verification import disk_to_verify
from imagebuilder.card.write import FlashJob, Target
from imagebuilder.card.write import verify as verify_card
from imagebuilder.cli.flashing import SOME_FAILED, describe, read_source
from imagebuilder.cli.history import events_of, recorder_for
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import INTERRUPTED, graceful_stop
from imagebuilder.cli.sources import image_source, prepared_nodes
from imagebuilder.cli.tables import table
from imagebuilder.device.discovery import Disk, changed
from imagebuilder.device.identity import Carried, carried
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.history.recorder import PlannedRun, planned_run
from imagebuilder.history.store import runs_of
from imagebuilder.history.warnings import was_good_with
from imagebuilder.image.build import write_image
from imagebuilder.image.drift import Comparison, compare, wanted_of
from imagebuilder.image.firstboot import Change
from imagebuilder.image.locate import SUPERBLOCK
from imagebuilder.image.results import Results, built, home_of, read_document
from imagebuilder.system.scratch import scratch_folder
from imagebuilder.system.threads import wait_for

_log = logging.getLogger(__name__)

_BOOT = 1  # the number of the boot partition


@dataclass(frozen=True)
class _Outcome:
    """The result: the state of a card that should carry a node, and the comparison.

    ``report`` is a comparison of bytes; ``comparison`` is one of files, for a booted card.
    """

    disk: Disk
    node: str = ""
    state: CardState | None = None
    report: CardReport | None = None
    comparison: Comparison | None = None

    @property
    def good(self) -> bool:
        """Whether the card is as it should be."""
        if self.comparison:
            return not self.comparison.drift
        return self.report is not None and self.report.done


def verify(
    session: Session,
    device: Path,
    node: str | None,
    image: Path | None,
    base: str | None,
    images: Path | None,
    as_json: bool,
) -> None:
    """Run ``piimg verify``, called as ``usage/verify.py`` says."""
    if node is not None and image is not None:
        raise UsageError("--node and --image exclude each other", "use one of them")
    with contextlib.ExitStack() as stack, graceful_stop(session.stop, session.reporter) as graceful:
        with graceful.interruptible():
            if image is not None:
                source: ImageSource | None = read_source(session, image)
                outcome = _Outcome(disk_to_verify(device, session.reporter))
            else:
                outcome, source = _node(session, stack, device, node, base, images)
        if source is not None:
            plan = planned_run(outcome.disk, source, outcome.node)
            outcome = replace(outcome, report=_bytes(session, outcome.disk, source, outcome.node))
            graceful.work_ended()
            _remember(session, outcome, plan)
        session.settle()
        _log_outcome(outcome)
        echo_json(_document(outcome)) if as_json else echo(_describe(outcome))
    if outcome.report and outcome.report.verdict is Verdict.INTERRUPTED:
        raise click.exceptions.Exit(INTERRUPTED)
    if not outcome.good:
        raise click.exceptions.Exit(SOME_FAILED)


def _log_outcome(outcome: _Outcome) -> None:
    device = outcome.disk.node
    if outcome.state:
        _log.info("%s: %s: %s", device, outcome.state.state, "; ".join(outcome.state.evidence))
    if outcome.comparison:
        found = outcome.comparison
        _log.info("%s: %d entries compared, %d differ", device, found.compared, len(found.drift))


def _node(
    session: Session,
    stack: contextlib.ExitStack,
    device: Path,
    named: str | None,
    base: str | None,
    images: Path | None,
) -> tuple[_Outcome, ImageSource | None]:
    """Verify against a node: the one named, else the one that the card carries.

    A source is given where the card is still to be compared with it, byte by byte; ``stack`` holds it open.
    """
    disk = disk_to_verify(device, session.reporter)
    found = carried(disk.node)
    node = named or _carried_node(session, found, images)
    if node is None:
        clusters = ", ".join(sorted(_clusters(session, images)))
        return _Outcome(disk, state=never_flashed(disk.node, found, cluster=clusters)), None
    image: Path | None = None
    if images is not None:
        source, image = image_source(session, node, images), Results(images, node).image
    else:
        (prepared,) = stack.enter_context(prepared_nodes(session, [node], base))
        source = prepared_source(prepared)
    try:
        state = never_flashed(disk.node, found, node, source.cluster)
    except PiimgError:  # a card that cannot be read; the comparison reports the place
        return _Outcome(disk, node), source
    if state is not None:
        return _Outcome(disk, node, state), source if named else None
    if image is None:
        folder = stack.enter_context(scratch_folder(prepared_folder(session.cluster)))
        image = write_image(prepared, folder).results.image
    manifest = str(source.document.get("manifest_digest", ""))
    state = state_of(disk.node, image, manifest, found.manifest)
    if state.state is BootState.BOOTED:
        return _Outcome(disk, node, state, comparison=_files(disk, image, source.document)), None
    return _Outcome(disk, node, state), source


def _remember(session: Session, outcome: _Outcome, plan: PlannedRun) -> None:
    """Record in the history a card that was good when it got this very node image, and is bad now.

    A desktop that mounts a card changes the boot partition and the superblock; differences there are no
    sign of a bad card.
    """
    state, report = outcome.state, outcome.report
    if state is None or state.state is not BootState.NEVER_BOOTED or report is None or plan.source is None:
        return
    runs = runs_of(events_of(session), plan.disk)
    recorder = recorder_for(session, [plan])
    if recorder is None or report.partition == _BOOT or report.file == SUPERBLOCK:
        return
    if was_good_with(runs, plan.node, plan.image, plan.source.made):
        recorder.was_read(plan, report, "verify")


def _carried_node(session: Session, found: Carried, images: Path | None) -> str | None:
    """The node that a card carries; None when it is of no cluster that is known here.

    Raises UsageError when it is a node of such a cluster that is not known.
    """
    clusters = _clusters(session, images)
    if not clusters:
        raise UsageError(
            f"no node is built in {images}",
            "build them: piimg build --all; or use --image FILE",
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


def _bytes(session: Session, disk: Disk, source: ImageSource, node: str) -> CardReport:
    """Compare every byte in use, in another thread: the main thread must receive Ctrl-C."""
    session.reporter.expect(str(disk.node), source.used, f"{node} {disk.slot}".strip())
    job = FlashJob(disk=disk, source=source, target=Target(node, ""))
    with ThreadPoolExecutor(1, "card") as pool:
        verifying = pool.submit(verify_card, job, session.reporter, session.stop)
        wait_for([verifying])
        return verifying.result()


def _files(disk: Disk, image: Path, what: Mapping[str, object]) -> Comparison:
    comparison = compare(disk.node, image, wanted_of(what), home_of(what))
    differs = list(changed(disk))
    if differs:
        raise PiimgError(
            f"{disk.node} is not the same card any more: {'; '.join(differs)}", "run the command again"
        )
    return comparison


def _document(outcome: _Outcome) -> dict[str, object]:
    """The report as data: that of flash, and ``state`` when the card should carry a node."""
    whole = document([outcome.report] if outcome.report else [])
    if outcome.state is None:
        return whole
    state: dict[str, object] = {"device": str(outcome.disk.node), "node": outcome.node}
    state |= asdict(outcome.state)
    if outcome.comparison:
        state |= asdict(outcome.comparison)
    return whole | {"state": state}


def _describe(outcome: _Outcome) -> str:
    lines = []
    if outcome.state:
        carries = f" {outcome.node}," if outcome.node else ""
        lines.append(f"{outcome.disk.node}:{carries} {outcome.state.state}")
        lines += [f"  {text}" for text in outcome.state.evidence]
        lines += [f"  note: {text}" for text in outcome.state.notes]
    if outcome.report:
        lines.append(describe([outcome.report]))
    if outcome.comparison:
        lines += _drift(outcome.comparison)
    return "\n".join(lines)


def _drift(found: Comparison) -> list[str]:
    count = f"{found.compared} entries of the overlay"
    if not found.compared and not found.drift:
        return ["nothing was compared: the record of the node image has no entries of an overlay"]
    if not found.compared:
        return [f"nothing could be compared: {change.found}" for change in found.drift]
    moved = [
        f"{change.partition}{change.path}: {change.reason}"
        for change in found.expected_changes
        if change.change is Change.STORED
    ]
    if not found.drift:
        return [
            *moved,
            f"no drift: {count} are unchanged; the rest of the card was not compared",
        ]
    heads = ("PATH", "LAYER", "CHANGED", "SHOULD BE", "IS")
    rows = [
        (f"{change.partition}{change.path}", change.layer, change.what, change.wanted, change.found)
        for change in found.drift
    ]
    return [*moved, table(heads, rows), f"drift in {len({row[0] for row in rows})} of {count}"]
