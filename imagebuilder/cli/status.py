"""What is prepared for each node, what was written to which card, and what changed since. Writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagebuilder.builder import Ingredients, prepared_in, present_base, present_ingredients, up_to_date
from imagebuilder.cli.history import events_of
from imagebuilder.cli.secrets import public_keys, secrets
from imagebuilder.cli.session import Session
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message, Silent
from imagebuilder.history.written import (
    RecipeStore,
    WrittenCard,
    WrittenImage,
    cards_by_node,
    changed_since,
    outdated,
    recipes_in,
)
from imagebuilder.image.base.opening import Base
from imagebuilder.image.prepared import PreparedFiles, read_record
from imagebuilder.image.recipe import ChangeKind, Recipe, RecipeChange, changes, in_short, in_words
from imagebuilder.keys.credentials import make_credentials
from imagebuilder.model import Credentials
from imagebuilder.plan import plan_nodes


@dataclass(frozen=True)
class CardStatus:
    """A card that a node was written to. ``changed`` is what the manifest has changed since; None when that
    is not known."""

    card: WrittenCard
    changed: Sequence[RecipeChange] | None


@dataclass(frozen=True)
class NodeStatus:
    """What is prepared for ``node``, and its cards, the newest first.

    ``up_to_date`` is None when that cannot be known; ``changes`` are why it is not up to date.
    """

    node: str
    prepared: bool
    up_to_date: bool | None
    changes: Sequence[RecipeChange]
    tree_digest: str
    cards: Sequence[CardStatus]

    @property
    def flash_again(self) -> bool | None:
        """Whether the node was written to a card, and a card with what it is now is still missing."""
        if not self.cards:
            return False
        newest = self.cards[0]
        if not newest.card.done or newest.changed:
            return True
        return None if newest.changed is None else False


@dataclass(frozen=True)
class ClusterStatus:
    """The status of all nodes. ``unknown`` says why it is not known what is up to date, if it is not;
    ``missing_keys`` that keys are missing which the cluster had."""

    nodes: Sequence[NodeStatus]
    unknown: PiimgError | None = None
    missing_keys: PiimgError | None = None


def status_of(session: Session, named_base: str) -> ClusterStatus:
    """The status of all nodes of the manifest. Raises PiimgError when manifest or base image are wrong."""
    cluster, workspace = session.cluster, session.workspace
    now: Mapping[str, Ingredients] = {}
    unknown: PiimgError | None = None
    try:
        given = secrets(workspace, Silent(), may_ask=False)
        base = present_base(workspace, named_base)
        if base is None:
            name = named_base or cluster.base
            raise PiimgError(
                f"the base image {name} is not in the cache", f"get it: piimg fetch {named_base}".rstrip()
            )
        credentials = make_credentials(cluster, workspace.keys(keep=False), given, public_keys())
        plans = plan_nodes(cluster, cluster.nodes, base.info.release, credentials, workspace.overlays)
        now = present_ingredients(cluster, plans, base)
        named = f" --base {named_base}" if named_base else ""
        if undressed := [node.name for node in cluster.nodes if node.name not in now]:
            raise PiimgError(
                f"packages, scripts or downloads of {in_short(undressed)} are not in the cache",
                f"get them: piimg build --node {undressed[0]}{named}\n"
                "flash, station, boot and verify do it too",
            )
    except PiimgError as error:
        unknown = error
    events, kept = events_of(session), recipes_in(workspace.state, workspace.folder)
    cards = cards_by_node(events)
    return ClusterStatus(
        [
            _node(
                PreparedFiles(prepared_in(cluster), node.name),
                now.get(node.name),
                cards.get(node.name, ()),
                kept,
            )
            for node in cluster.nodes
        ],
        unknown,
        workspace.missing_keys(),
    )


def _node(
    place: PreparedFiles,
    now: Ingredients | None,
    cards: Sequence[WrittenCard],
    kept: RecipeStore,
) -> NodeStatus:
    record = read_record(place)
    images: dict[str, WrittenImage] = {}
    digest = str(record.document.get("tree_digest", "")) if record else ""
    ready, why = None, list[RecipeChange]()
    if cards:
        images = kept.of(place.node)
    if record:
        images.setdefault(digest, WrittenImage(digest, Recipe(record.recipe, record.parts), ""))
    if now is not None:
        ready = up_to_date(place, now) is not None
        if record and not ready:
            why = list(changes(record.parts, now.recipe)) or [RecipeChange(ChangeKind.DAMAGED)]
    changed = [changed_since(card.begun.image, images, now.recipe) if now else None for card in cards]
    if ready:
        # What was written is not known by its recipe: then by its tree digest, which is another one.
        changed = [
            [RecipeChange(ChangeKind.IMAGE)] if one is None and card.done else one
            for one, card in zip(changed, cards, strict=True)
        ]
    statuses = [CardStatus(card, one) for card, one in zip(cards, changed, strict=True)]
    return NodeStatus(place.node, record is not None, ready, why, digest, statuses)


def name_outdated(session: Session, done: Sequence[str], base: Base, credentials: Credentials) -> None:
    """Report in one line which nodes, other than ``done``, were flashed before and are outdated now."""
    workspace, cluster = session.workspace, session.cluster
    events, kept = events_of(session), recipes_in(workspace.state, workspace.folder)
    flashed = cards_by_node(events)
    others = [node for node in cluster.nodes if node.name in flashed and node.name not in done]
    if not others:
        return
    plans = plan_nodes(cluster, others, base.info.release, credentials, workspace.overlays)
    present = present_ingredients(cluster, plans, base)
    found = outdated(events, kept, {name: one.recipe for name, one in present.items()})
    if found:
        named = in_words(list(dict.fromkeys(change for changes in found.values() for change in changes)))
        text = f"flashed before and outdated now: {', '.join(found)} ({named}); see them with: piimg status"
        session.reporter.emit(Message("info", text))
