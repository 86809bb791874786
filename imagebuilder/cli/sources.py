"""What is written for each node: prepared nodes, made up to date first, or node images of a folder."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imagebuilder.builder import opened_base, prepare_nodes
from imagebuilder.card.source import ImageSource, open_source, prepared_source
from imagebuilder.cli.keys import usable_keys
from imagebuilder.cli.secrets import gather, secrets
from imagebuilder.cli.session import Session, chosen_nodes, warn_of_idle_layers
from imagebuilder.cli.status import name_outdated
from imagebuilder.device.identity import Carried
from imagebuilder.device.node_card import boot_paths
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message
from imagebuilder.image.prepared import PreparedNode
from imagebuilder.image.results import Results, built_image, read_document
from imagebuilder.keys.store import KeyStore
from imagebuilder.overlay.rendering import Rendering
from imagebuilder.plan import plan_nodes
from imagebuilder.system.cleanup import free_leftovers

Sources = Mapping[str, ImageSource]
"""What is written for each node, by name."""


@contextlib.contextmanager
def node_sources(
    session: Session,
    names: Sequence[str],
    *,
    base: str | None = None,
    images: Path | None = None,
    new_keys: bool = False,
    cards: Iterable[Carried] = (),
    name_others: bool = False,
) -> Iterator[Sources]:
    """What is written for each of the nodes ``names``, or for all of the manifest.

    A node that is not up to date with the manifest, the layers, the secrets and the base image of now is
    prepared; ``base`` is in place of the manifest's. With ``images`` the node images of that folder are used
    as they are. The base image stays in the cache while the block runs. ``new_keys`` and ``cards`` as for
    ``usable_keys``. With ``name_others`` it is reported after the block which other nodes were flashed before
    and are outdated now. Raises PiimgError.
    """
    if images is not None:
        yield image_sources(session, names, images)
        return
    keys = usable_keys(session, new_keys, cards)
    with prepared_nodes(session, names, base, keys=keys, name_others=name_others) as nodes:
        yield {node.node: prepared_source(node) for node in nodes}


@contextlib.contextmanager
def prepared_nodes(
    session: Session,
    names: Sequence[str],
    base: str | None = None,
    *,
    keys: KeyStore | None = None,
    name_others: bool = False,
) -> Iterator[list[PreparedNode]]:
    """The prepared nodes ``names``, or all of the manifest, brought up to date. As for ``node_sources``.

    ``keys`` are those of the cluster; without them it is an error if some are missing that it had.
    """
    workspace, reporter = session.workspace, session.reporter
    chosen = chosen_nodes(workspace.cluster, tuple(names), not names)
    keys = keys or workspace.keys()
    free_leftovers()
    given = secrets(workspace, reporter)  # before a long download, not after it
    try:
        with (
            Rendering(at_once=True) as rendering,  # it loads while the base image is examined
            opened_base(workspace, base or "", reporter=reporter) as opened,
        ):
            credentials = gather(workspace, keys, reporter, given)
            release = opened.info.release
            plans = plan_nodes(workspace.cluster, chosen, release, credentials, workspace.overlays, rendering)
            warn_of_idle_layers(session)
            with contextlib.ExitStack() as stack:
                nodes = stack.enter_context(
                    prepare_nodes(
                        workspace.cluster,
                        plans,
                        opened,
                        jobs=os.cpu_count() or 1,
                        reporter=reporter,
                        stop=session.stop,
                    )
                )
                session.settle()
                yield [stack.enter_context(_kept_open(node)) for node in nodes]
            if name_others:
                name_outdated(session, [node.name for node in chosen], opened, credentials)
    finally:
        session.settle()


@contextlib.contextmanager
def _kept_open(node: PreparedNode) -> Iterator[PreparedNode]:
    """The node with its file of changes open: a run that prepares it again does not change this one."""
    assert node.content.changes is not None
    with node.content.changes.open("rb") as changes:
        kept = Path(f"/proc/self/fd/{changes.fileno()}")
        yield replace(node, content=replace(node.content, changes=kept))


def image_sources(session: Session, names: Sequence[str], folder: Path) -> Sources:
    """The node images of ``names``, or of every node of the manifest, in ``folder``; each with its block map.

    Warns of an image that was built from another manifest than the one at hand. Raises UsageError when one is
    not built, or incomplete, and PiimgError when one cannot be read.
    """
    names = names or [node.name for node in session.cluster.nodes]
    return {name: image_source(session, name, folder) for name in names}


def image_source(session: Session, node: str, folder: Path) -> ImageSource:
    """The image of ``node`` in ``folder``; as for ``image_sources``."""
    image = built_image(folder, node)
    document = read_document(Results(folder, node).json)
    _warn_of_another_manifest(session, node, folder, document)
    try:
        source = open_source(image, session.reporter)
    finally:
        session.settle()  # a question may be next
    return source.of_node(document, boot_paths(image))


def _warn_of_another_manifest(
    session: Session, node: str, folder: Path, document: Mapping[str, object]
) -> None:
    if not session.has_manifest:
        return
    try:
        cluster = session.cluster
    except PiimgError:
        return  # the images are built, so errors in the manifest do not matter
    text = ""
    if document.get("cluster") != cluster.name:
        text = f"{folder}/{node}.img is of the cluster {document.get('cluster')}, not {cluster.name}"
    elif node not in [each.name for each in cluster.nodes]:
        text = f"{folder}/{node}.img is of a node that the manifest does not have"
    elif document.get("manifest_digest") != cluster.digest:
        text = f"{folder}/{node}.img was built from another manifest than the present one"
    if text:
        session.reporter.emit(Message("warning", text, node))
