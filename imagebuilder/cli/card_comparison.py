"""Compare cards with what the manifest gives now, and find out whether a difference is age or damage."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagebuilder.builder import prepared_folder
from imagebuilder.card.boot_state import BootState, CardState, never_flashed, state_of
from imagebuilder.card.earlier_image import EarlierImage, earlier_image
from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.card.source import ImageSource, Piece
from imagebuilder.card.write import FlashJob, Target, verify
from imagebuilder.cli.history import earlier_named, events_of, recorder_for
from imagebuilder.cli.session import Session
from imagebuilder.device.discovery import Disk, changed
from imagebuilder.device.identity import Carried
from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.history.recorder import planned_run
from imagebuilder.history.store import has_own_serial, runs_of
from imagebuilder.history.warnings import was_good_with
from imagebuilder.history.written import WrittenImage, recipes_in
from imagebuilder.image.build import write_image
from imagebuilder.image.drift import Comparison, compare, wanted_of
from imagebuilder.image.locate import SUPERBLOCK
from imagebuilder.image.prepared import PreparedNode
from imagebuilder.image.recipe import ChangeKind, RecipeChange, changes, in_short
from imagebuilder.image.results import home_of
from imagebuilder.system.scratch import scratch_folder
from imagebuilder.system.threads import wait_for

_log = logging.getLogger(__name__)

_BOOT = 1  # the number of the boot partition


@dataclass(frozen=True)
class Older:
    """The card was flashed with an earlier image of its node; ``changes`` are what changed since.

    ``undamaged`` is None when that is not known: the block map of the image was not kept, or it was booted.
    """

    changes: tuple[RecipeChange, ...]
    undamaged: bool | None = None

    @property
    def text(self) -> str:
        """What it was flashed from, in words."""
        if not self.changes:
            return "flashed from an older image"
        by_manifest = all(change.by_manifest for change in self.changes)
        named = in_short([change.name for change in self.changes])
        return f"flashed from an older {'manifest' if by_manifest else 'image'}: {named}"


@dataclass(frozen=True)
class Outcome:
    """The result for a card: its state, if it should carry a node, and the comparison.

    ``report`` is a comparison of bytes; ``comparison`` is one of files, for a booted card. ``older``: it was
    flashed with an earlier image. ``advice`` says what to do next; ``refused`` why it was not looked at.
    """

    disk: Disk
    node: str = ""
    state: CardState | None = None
    report: CardReport | None = None
    comparison: Comparison | None = None
    older: Older | None = None
    advice: str = ""
    refused: PiimgError | None = None

    @property
    def good(self) -> bool:
        """Whether the card is as it should be."""
        if self.comparison:
            return not self.comparison.drift
        return self.report is not None and self.report.done


@dataclass(frozen=True)
class Wanted:
    """What a card is compared with: the image of ``node``, or, without one, any image. ``found`` is what the
    card carries.

    ``differing`` are the overlay's paths that differ, if the card says that it is from another manifest.
    """

    disk: Disk
    node: str
    source: ImageSource
    found: Carried = field(default_factory=Carried)
    differing: tuple[RecipeChange, ...] = ()


def is_another_node(found: Carried, node: str, source: ImageSource) -> bool:
    """Whether the card carries another node of the same cluster."""
    return bool(found.node) and found.cluster == source.cluster and found.node != node


def examined(session: Session, wanted: Wanted, image: Path, *, named: bool) -> tuple[Outcome, Wanted | None]:
    """The state of a card that should carry a node; and, if its bytes are still to be compared, with what.

    ``named``: the user named the node. Raises PiimgError.
    """
    disk, node, source, found = wanted.disk, wanted.node, wanted.source, wanted.found
    try:
        state = never_flashed(disk.node, found, node, source.cluster)
    except PiimgError:  # a card that cannot be read; the comparison reports the place
        return Outcome(disk, node), wanted
    if state is not None:
        if is_another_node(found, node, source):
            advice = (
                f"this is {found.node}'s card: sudo piimg verify {disk.node};"
                f" to make it {node}'s: {flash_line(disk, node)}"
            )
            return Outcome(disk, node, state, advice=advice), None
        outcome = Outcome(disk, node, state, advice=f"to write it: {flash_line(disk, node)}")
        return outcome, wanted if named else None
    manifest = str(source.document.get("manifest_digest", ""))
    state = state_of(disk.node, image, manifest, found.manifest)
    if state.state is BootState.BOOTED:
        comparison = _files(disk, image, source.document)
        older = _older(session, wanted, None) if comparison.drift else None
        if older is None and comparison.drift and manifest != found.manifest:
            older = Older(_paths(comparison))
        advice = f"to have what the manifest gives now: {flash_line(disk, node)}" if older else ""
        return Outcome(disk, node, state, comparison=comparison, older=older, advice=advice), None
    if manifest != found.manifest:
        with contextlib.suppress(PiimgError):
            wanted = replace(wanted, differing=_paths(_files(disk, image, source.document)))
    return Outcome(disk, node, state), wanted


def flash_line(disk: Disk, node: str) -> str:
    """The command that writes a node to the card."""
    return f"sudo piimg flash {disk.node} --node {node}" if node else f"sudo piimg flash {disk.node}"


@contextlib.contextmanager
def whole_image(session: Session, node: PreparedNode) -> Iterator[Path]:
    """A whole image file of a prepared node, removed at the end. Raises PiimgError."""
    with scratch_folder(prepared_folder(session.cluster)) as folder:
        yield write_image(node, folder).results.image


def compared(session: Session, outcomes: Sequence[tuple[Outcome, Wanted | None]]) -> list[Outcome]:
    """Compare the bytes of all cards that are still to be compared, at the same time.

    In other threads: the main thread must receive Ctrl-C.
    """
    todo = [wanted for _, wanted in outcomes if wanted is not None]
    for wanted in todo:
        title = f"{wanted.node} {wanted.disk.slot}".strip()
        session.reporter.expect(str(wanted.disk.node), wanted.source.used, title)
    with ThreadPoolExecutor(max(1, len(todo)), "card") as pool:
        running = {id(wanted): pool.submit(_bytes, session, wanted) for wanted in todo}
        wait_for(list(running.values()))
    done = []
    for outcome, one in outcomes:
        if one is None:
            done.append(outcome)
        else:
            report, earlier = running[id(one)].result()
            done.append(_judged(session, replace(outcome, report=report), one, earlier))
    return done


def _bytes(session: Session, wanted: Wanted) -> tuple[CardReport, EarlierImage | None]:
    """Compare every byte in use; if it is not the present image, with the earlier ones of the node."""
    disk, source = wanted.disk, wanted.source
    job = FlashJob(disk=disk, source=source, target=Target(wanted.node, ""))
    report = verify(job, session.reporter, session.stop)
    maps = earlier_named(session, wanted.found) if wanted.node else {}
    if report.verdict is not Verdict.BAD or not maps:
        return report, None
    try:
        return report, earlier_image(disk, source.pieces, maps, session.reporter, session.stop)
    except Interrupted as error:
        return replace(report, verdict=Verdict.INTERRUPTED, error=error.message, problem=error.message), None
    except PiimgError as error:
        _log.info("%s: not compared with earlier images: %s", disk.node, error.whole)
        return report, None


def _judged(session: Session, outcome: Outcome, wanted: Wanted, earlier: EarlierImage | None) -> Outcome:
    """The outcome with the verdict of the comparison: damaged, or flashed with an earlier image."""
    report, disk, node = outcome.report, wanted.disk, wanted.node
    assert report is not None, "the bytes were compared"
    if report.verdict is not Verdict.BAD:
        return outcome
    older = _older(session, wanted, earlier) if outcome.state and node else None
    if older is None:
        _remember(session, outcome, wanted, wanted.source.tree_digest, wanted.source.made)
        return replace(outcome, report=replace(report, hint=_for_damage(disk, node)))
    if earlier is not None and earlier.wrong is not None:
        outcome = replace(outcome, report=_damaged(report, wanted, older, earlier.wrong), older=older)
        image = _kept(session, wanted).get(earlier.name)
        near_start = any(
            earlier.wrong.start <= part.start < earlier.wrong.end for part in wanted.source.slices
        )
        if image and not near_start:  # where a desktop that mounts a card writes
            _remember(session, outcome, wanted, image.image, 0.0)
        return outcome
    text = f"{older.text}; {'it is undamaged' if older.undamaged else 'whether it is damaged is not known'}"
    report = replace(
        report,
        verdict=Verdict.OLDER,
        error=f"{disk.node}: {text}",
        problem=text,
        hint=f"flash it again: {flash_line(disk, node)}",
        offset=None,
        partition=None,
        file="",
    )
    return replace(outcome, report=report, older=older)


def _for_damage(disk: Disk, node: str) -> str:
    again = f"then flash it again: {flash_line(disk, node)}" if node else "then flash it again"
    return f"read it again in another reader; {again}; use another card only if that fails too"


def _damaged(report: CardReport, wanted: Wanted, older: Older, wrong: Piece) -> CardReport:
    part = wanted.source.slice_at(wrong.start)
    text = (
        f"is damaged between byte {wrong.start} and byte {wrong.end}: that is neither what the manifest"
        f" gives nor what was written ({older.text})"
    )
    return replace(
        report,
        error=f"{wanted.disk.node} {text}",
        problem=text,
        hint=_for_damage(wanted.disk, wanted.node),
        offset=wrong.start,
        partition=part.number if part else None,
        file="",
    )


def _kept(session: Session, wanted: Wanted) -> Mapping[str, WrittenImage]:
    """The images that were written for the node, by the name of their block map."""
    place = session.workspace
    images = recipes_in(place.state, place.folder).of(wanted.node)
    return {image.block_map: image for image in images.values()}


def _older(session: Session, wanted: Wanted, earlier: EarlierImage | None) -> Older | None:
    """What the card was flashed with, if that was an earlier image; None if nothing says so."""
    now, present = wanted.source.recipe, wanted.source.tree_digest
    if now is None or not session.has_manifest:
        return Older(wanted.differing) if wanted.differing else None
    kept = _kept(session, wanted)
    if earlier is not None:
        image = kept.get(earlier.name)
        why = changes(image.recipe.parts, now) if image else wanted.differing
        return Older(tuple(why), earlier.wrong is None)
    last = ""
    if has_own_serial(wanted.disk):
        runs = runs_of(events_of(session), wanted.disk)
        written = [run.begun for run in runs if run.begun and not (run.ended and run.ended.look)]
        last = written[-1].image if written else ""
    if last == present:
        return None  # what it was flashed with is what the manifest gives now
    image = next((image for image in kept.values() if image.image == last), None)
    if image is not None:
        return Older(tuple(changes(image.recipe.parts, now)))
    return Older(wanted.differing) if wanted.differing else None


def _files(disk: Disk, image: Path, what: Mapping[str, object]) -> Comparison:
    comparison = compare(disk.node, image, wanted_of(what), home_of(what))
    differs = list(changed(disk))
    if differs:
        raise PiimgError(
            f"{disk.node} is not the same card any more: {'; '.join(differs)}", "run the command again"
        )
    return comparison


def _paths(comparison: Comparison) -> tuple[RecipeChange, ...]:
    paths = dict.fromkeys(f"{drift.partition}{drift.path}" for drift in comparison.drift)
    return tuple(RecipeChange(ChangeKind.PATH, path) for path in paths)


def _remember(session: Session, outcome: Outcome, wanted: Wanted, image: str, made: float) -> None:
    """Record in the history a card that was good when it got ``image``, and is bad now.

    ``made`` is when the image was made, in seconds since 1970. A desktop that mounts a card changes the boot
    partition and the superblock; differences there are no sign of a bad card.
    """
    state, report = outcome.state, outcome.report
    if state is None or state.state is not BootState.NEVER_BOOTED or report is None:
        return
    plan = replace(planned_run(wanted.disk, wanted.source, wanted.node), image=image)
    recorder = recorder_for(session, [plan])
    if recorder is None or report.partition == _BOOT or report.file == SUPERBLOCK:
        return
    if was_good_with(runs_of(events_of(session), plan.disk), plan.node, image, made):
        recorder.was_read(plan, report, "verify")


def interrupted(outcomes: Sequence[Outcome]) -> bool:
    """Whether one of the comparisons was interrupted."""
    return any(outcome.report and outcome.report.verdict is Verdict.INTERRUPTED for outcome in outcomes)


def log_outcome(outcome: Outcome) -> None:
    """Log the state and the number of differences."""
    device = outcome.disk.node
    if outcome.state:
        _log.info("%s: %s: %s", device, outcome.state.state, "; ".join(outcome.state.evidence))
    if outcome.comparison:
        found = outcome.comparison
        _log.info("%s: %d entries compared, %d differ", device, found.compared, len(found.drift))
