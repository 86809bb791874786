"""`piimg plan --diff`: what differs in prepared or built nodes, in another manifest, on a card."""

import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagebuilder.base.catalogue import lookup
from imagebuilder.base.catalogue import shown as without_credentials
from imagebuilder.builder import known_release, prepared_in
from imagebuilder.cli.output import Line, Style, echo
from imagebuilder.cli.planned.hunks import difference_lines, title, unified
from imagebuilder.cli.planned.masked import masked_plans
from imagebuilder.cli.planned.wording import named
from imagebuilder.cli.secrets import gather
from imagebuilder.cli.session import Session, chosen_nodes
from imagebuilder.device.existing import unfinished_on
from imagebuilder.device.identity import Carried, carried
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Silent
from imagebuilder.image.base.opening import at_home
from imagebuilder.image.card_drift import card_differences, contents_on
from imagebuilder.image.drift import wanted_of
from imagebuilder.image.parts import (
    Difference,
    Part,
    documented_parts,
    path_text,
    planned_parts,
    text_in,
    without_unpacked,
)
from imagebuilder.image.parts import differences as differences_of
from imagebuilder.image.prepared import PreparedFiles, PreparedRecord, read_record
from imagebuilder.image.recipe import recipe_of
from imagebuilder.image.results import Results, built, built_image, home_of, read_document
from imagebuilder.model import Kind, Node, NodePlan, Release
from imagebuilder.plan import plan_nodes
from imagebuilder.reading import kind_of
from imagebuilder.summary import way_out
from imagebuilder.text import did_you_mean
from imagebuilder.workspace import Workspace

_FACTS = "the node itself"
_SIGNATURE = b"\x55\xaa"  # at the end of the first sector of an image (UEFI specification 2.10, 5.2.1)


@dataclass(frozen=True)
class _Found:
    """What differs for a node: titles with their lines. ``note``: why there is nothing to compare with."""

    node: str
    parts: Sequence[tuple[str, tuple[Line, ...]]] = ()
    note: str = ""


@dataclass(frozen=True)
class _Now:
    """What the manifest gives now."""

    session: Session
    release: str | None

    @property
    def planned_for(self) -> Release:
        """The release that is planned for. Raises UsageError if it is not known."""
        return Release(self.release) if self.release else known_release(self.session.workspace)

    def plans(self, nodes: Sequence[Node]) -> list[NodePlan]:
        """The plans of ``nodes``. Raises UsageError."""
        workspace = self.session.workspace
        credentials = gather(workspace, workspace.keys(keep=False), Silent())
        return plan_nodes(workspace.cluster, nodes, self.planned_for, credentials, workspace.overlays)

    def masked(self, nodes: Sequence[Node]) -> list[NodePlan]:
        """The plans of ``nodes`` with masks in place of secrets. Raises UsageError."""
        return masked_plans(self.session.workspace, nodes, self.planned_for)

    def facts(self, plan: NodePlan) -> Mapping[str, list[str]]:
        """What the manifest says of a node."""
        return _facts(self.session.workspace, plan)


def differences(
    session: Session, names: tuple[str, ...], release: str | None, against: str
) -> Iterator[Line]:
    """What differs for the nodes ``names`` (none: all, or the one that a card carries).

    ``against`` is the path of a manifest, a folder of node images, an image or a card; empty for what is
    prepared, or else built. Raises UsageError and PiimgError.
    """
    now, other = _Now(session, release), Path(against)
    kind = _kind(other) if against else "prepared"
    cluster = session.cluster
    if kind == "card":
        found = [_against_card(session, now, names, other)]
    else:
        nodes = chosen_nodes(cluster, names, every=not names)
        if kind == "manifest":
            found = list(_against_manifest(session, now, nodes, other, bool(names)))
        elif kind == "folder":
            found = list(_against_folder(now, nodes, other))
        else:
            found = list(_against_prepared(session, now, nodes))
    session.settle()
    everyone = list(dict.fromkeys([*(node.name for node in cluster.nodes), *(one.node for one in found)]))
    notes: dict[str, list[str]] = {}
    for one in found:
        if one.note:
            notes.setdefault(one.note, []).append(one.node)
    same = [one.node for one in found if not one.parts and not one.note]
    if same:
        notes[_NOTHING[kind].format(other)] = same
    for note, nodes_of_it in notes.items():
        echo(f"{named(nodes_of_it, everyone)}: {note}", err=True)
    return _grouped(found, everyone)


_NOTHING = {
    "prepared": "nothing differs from what is prepared or built",
    "folder": "nothing differs from the image in {}",
    "manifest": "nothing differs from {}",
    "card": "nothing that the plan gives differs on {}",
}


def _kind(path: Path) -> str:
    """What ``path`` is: a "card" (or an image), a "folder", or a "manifest". Raises UsageError."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISBLK(mode):
            return "card"
        if stat.S_ISDIR(mode):
            return "folder"
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path} is {kind_of(mode)}", _WAYS)
        with path.open("rb") as stream:
            return "card" if stream.read(512)[510:] == _SIGNATURE else "manifest"
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", _WAYS) from error


_WAYS = "name a manifest, a folder of node images, an image, or a card; or nothing: what is prepared"


def _grouped(found: Sequence[_Found], everyone: Sequence[str]) -> Iterator[Line]:
    """Each difference once, with the nodes that have it."""
    groups: dict[tuple[str, tuple[Line, ...]], list[str]] = {}
    for one in found:
        for part in one.parts:
            groups.setdefault(part, []).append(one.node)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0] != _FACTS, group[0][0]))
    for number, ((about, lines), nodes) in enumerate(ordered):
        if number:
            yield Line()
        yield Line(f"{named(nodes, everyone)}: {about}", Style.HEAD)
        yield from lines


_Parts = list[tuple[str, tuple[Line, ...]]]


def _compared(
    node: str, facts: _Parts, found: Sequence[Difference], before: str, digests: tuple[str, str]
) -> _Found:
    """What is found for a node. ``digests`` are those of the two manifests, which files of each node have.

    A file in which only these differ is not shown: any change of a manifest does that.
    """
    shown = [one for one in found if not _only_digests(one, digests)]
    parts = [*facts, *((title(one), tuple(difference_lines(one, before, "planned"))) for one in shown)]
    note = "nothing differs but the digest of the manifest" if found and not parts else ""
    return _Found(node, parts, note)


def _only_digests(one: Difference, digests: tuple[str, str]) -> bool:
    old, new = one.old, one.new
    if old is None or new is None or old.content is None or new.content is None or old.secret:
        return False
    if (old.kind, old.rights, old.target) != (new.kind, new.rights, new.target) or not all(digests):
        return False
    before, now = (digest.encode() for digest in digests)
    return old.content.replace(before, now) == new.content


# --- prepared and built nodes ------------------------------------------------------------------------------


def _against_prepared(session: Session, now: _Now, nodes: Sequence[Node]) -> Iterator[_Found]:
    cluster, images = session.cluster, session.workspace.images
    there = built(images) if images.is_dir() else ()
    for plan in now.plans(nodes):
        node = plan.node.name
        record = read_record(PreparedFiles(prepared_in(cluster), node))
        if record is not None:
            yield _with_record(now, plan, record)
        elif node in there:
            yield _with_image(now, plan, images)
        else:
            yield _Found(node, note="neither prepared nor built yet, so there is nothing to compare with")


def _against_folder(now: _Now, nodes: Sequence[Node], folder: Path) -> Iterator[_Found]:
    there = built(folder)
    if not there:
        raise UsageError(
            f"there are no node images in {folder}",
            f"build them: piimg build --all --output {shlex.quote(str(folder))}",
        )
    for plan in now.plans(nodes):
        if plan.node.name in there:
            yield _with_image(now, plan, folder)
        else:
            yield _Found(plan.node.name, note=f"there is no image of it in {folder}")


def _with_record(now: _Now, plan: NodePlan, record: PreparedRecord) -> _Found:
    """Compare with a prepared node. Needs no base image: its record has the texts of the files."""
    plan = _at_home(plan, home_of(record.document))
    new = planned_parts(plan.entries, recipe_of(now.session.cluster, plan, "", 0).parts)
    old = documented_parts(wanted_of(record.document), record.texts, record.parts)
    old = without_unpacked(old, new, plan.entries)
    facts = _changed_facts(_documented_facts(record.document), now.facts(plan), "prepared")
    digests = (_digest_in(record.document), now.session.cluster.digest)
    return _compared(plan.node.name, facts, differences_of(old, new), "prepared", digests)


def _digest_in(document: Mapping[str, Any]) -> str:
    digest = document.get("manifest_digest")
    return digest if isinstance(digest, str) else ""


def _with_image(now: _Now, plan: NodePlan, folder: Path) -> _Found:
    """Compare with a node image, also with what was in it and is not planned any more."""
    node = plan.node.name
    image, document = built_image(folder, node), read_document(Results(folder, node).json)
    moved = _at_home(plan, home_of(document))
    found = card_differences(image, plan.entries)
    planned = {(entry.partition, entry.path) for entry in moved.entries}
    parts = documented_parts(wanted_of(document), {}, {})
    parts = without_unpacked(parts, planned_parts(moved.entries), moved.entries)
    gone = {key: part for key, part in parts.items() if key[:2] not in planned}
    readable = [key[:2] for key, part in gone.items() if part.kind is Kind.FILE and not part.secret]
    texts = {path_text(*place): text_in(content) for place, content in contents_on(image, readable).items()}
    gone = {key: _read(part, texts.get(path_text(*key[:2]))) for key, part in gone.items()}
    removed = [Difference(key, part, None) for key, part in sorted(gone.items())]
    facts = _changed_facts(_documented_facts(document), now.facts(plan), "built")
    digests = (_digest_in(document), now.session.cluster.digest)
    return _compared(node, facts, [*found, *removed], "built", digests)


def _read(part: Part, text: str | None) -> Part:
    return part if text is None else replace(part, content=text.encode())


def _at_home(plan: NodePlan, home: str) -> NodePlan:
    """The plan on a base image with ``home`` as the home of its account."""
    return replace(plan, entries=tuple(replace(entry, path=at_home(entry, home)) for entry in plan.entries))


# --- another manifest --------------------------------------------------------------------------------------


def _against_manifest(
    session: Session, now: _Now, nodes: Sequence[Node], file: Path, chosen: bool
) -> Iterator[_Found]:
    """Compare with the plans of another manifest. No secret is needed: both sides have masks."""
    other = Workspace(file)
    names = [node.name for node in nodes]
    before = [node for node in other.cluster.nodes if node.name in names or not chosen]
    release = now.planned_for if now.release else other.release
    # The keys of this cluster on both sides: those of another folder would differ in every file with one.
    keys = session.workspace.keys(keep=False)
    old = {plan.node.name: plan for plan in masked_plans(other, before, release, keys)}
    label = str(file)
    for plan in now.masked(nodes):
        was = old.pop(plan.node.name, None)
        if was is None:
            yield _Found(plan.node.name, note=f"not in {label}")
            continue
        facts = _changed_facts(_facts(other, was), now.facts(plan), label)
        found = differences_of(planned_parts(was.entries), planned_parts(plan.entries))
        digests = (other.cluster.digest, session.cluster.digest)
        yield _compared(plan.node.name, facts, found, label, digests)
    for name in old:
        yield _Found(name, note=f"only in {label}")


def _facts(workspace: Workspace, plan: NodePlan) -> Mapping[str, list[str]]:
    """What a manifest says of a node, in words, by kind."""
    node, cluster = plan.node, workspace.cluster
    radio = [f"Wi-Fi {node.wifi.ssid}, {node.wifi.country}, {node.wifi.interface}"] if node.wifi else []
    return {
        "node": [
            f"role {node.role}",
            f"board {node.board.name}",
            f"address {node.address or 'by DHCP'} on {node.interface}",
            f"way out {way_out(cluster, node)}"
            + (f", policy {cluster.gateway.policy}" if cluster.gateway else ""),
            *radio,
        ],
        "release": [f"release {plan.release}"],
        "base": [f"base image {_base_name(workspace)}"],
        "layers": [f"layer {name}" for name in plan.layers],
    }


def _base_name(workspace: Workspace) -> str:
    """The name of the base image as documents of images have it."""
    try:
        return lookup(workspace.cluster.base, workspace.catalogues, workspace.folder).name
    except PiimgError:  # fetching it reports what is wrong with the name
        return without_credentials(workspace.cluster.base)


def _documented_facts(document: Mapping[str, Any]) -> Mapping[str, list[str]]:
    """What NODE.json says of a node, as far as it does."""
    base, layers = document.get("base"), document.get("layers")
    name = base.get("name") if isinstance(base, dict) else None
    return {
        "release": [f"release {document.get('release')}"],
        "base": [f"base image {name}"],
        "layers": [f"layer {name}" for name in layers] if isinstance(layers, list) else [],
    }


def _changed_facts(old: Mapping[str, list[str]], new: Mapping[str, list[str]], before: str) -> _Parts:
    """The facts that both sides know, if they differ."""
    a = [line for kind, lines in old.items() if kind in new for line in lines]
    b = [line for kind, lines in new.items() if kind in old for line in lines]
    return [(_FACTS, tuple(unified(a, b, before, "planned")))] if a != b else []


# --- a card ------------------------------------------------------------------------------------------------


def _against_card(session: Session, now: _Now, names: tuple[str, ...], card: Path) -> _Found:
    """Compare with a card, or an image: with the node that is named, else the one that it carries."""
    cluster = session.cluster
    if len(names) > 1:
        raise UsageError("a card carries one node", "name one with --node")
    carries = carried(card)
    known = [node.name for node in cluster.nodes]
    if not names and carries.node not in known:
        raise _of_no_node(session, card, carries)
    if carries.node and (carries.node, carries.cluster) != ((*names, carries.node)[0], cluster.name):
        echo(f"note: {card} carries {carries.named(cluster.name)}", err=True)
    (node,) = chosen_nodes(cluster, names or (carries.node,), every=False)
    (plan,) = now.plans([node])
    found = card_differences(card, plan.entries)
    return _compared(node.name, [], found, str(card), (carries.manifest, cluster.digest))


def _of_no_node(session: Session, card: Path, carries: Carried) -> UsageError:
    """The error for a card that carries no node of the manifest, and none is named."""
    hint = "name the node that it should carry with --node"
    if carries.node:
        meant = did_you_mean(carries.node, [node.name for node in session.cluster.nodes])
        named = carries.named(session.cluster.name)
        return UsageError(f"{card} carries {named}, which the manifest does not have{meant}", hint)
    unfinished = unfinished_on(card)
    if unfinished is not None:
        what = unfinished.named() or "an image"
        return UsageError(f"{card} holds nothing complete: the writing of {what} was interrupted", hint)
    return UsageError(f"{card} carries no node, or cannot be read", hint)
