"""Nodes of a cluster: fetch and open the base image, prepare nodes and build node images in parallel."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.base.cached import Fetched, in_cache
from imagebuilder.base.catalogue import from_here, is_file
from imagebuilder.base.notes import note_prepared
from imagebuilder.errors import Interrupted, PiimgError, UsageError
from imagebuilder.events import Message, Reporter, Silent
from imagebuilder.image.base.opening import Base, open_base
from imagebuilder.image.build import NodeImage, write_image
from imagebuilder.image.prepare import Bench, bench, fitted_recipe, prepare_node
from imagebuilder.image.prepared import PreparedFiles, PreparedNode, load, nodes_in, read_record
from imagebuilder.image.recipe import Recipe, reason
from imagebuilder.model import Cluster, NodePlan, Release
from imagebuilder.plan import check_architecture
from imagebuilder.progress import task
from imagebuilder.system import files
from imagebuilder.system.scratch import remove_left_over
from imagebuilder.system.threads import wait_for
from imagebuilder.workspace import Workspace, made_folder

_log = logging.getLogger(__name__)

_FEW = 3  # nodes with a line each

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@contextlib.contextmanager
def opened_base(
    workspace: Workspace, named: str = "", *, cache: Cache | None = None, reporter: Reporter | None = None
) -> Iterator[Base]:
    """Fetch (if needed) and examine the base image ``named`` (a NAME, URL or FILE), else the manifest's.

    It stays in ``cache`` (default: the user's) while the block runs. A FILE needs no checksum: it is used
    unchecked, and NODE.json records its digest. Raises PiimgError when it cannot be fetched, has another
    release than the manifest, or cannot boot on a board of the cluster.
    """
    from imagebuilder.base.fetch import fetch, in_use  # only here: it takes long to load

    cache, reporter = cache or Cache(default_folder()), reporter or Silent()
    source = from_here(named) if named else workspace.cluster.base
    get = partial(
        fetch,
        source,
        catalogues=workspace.catalogues,
        cache=cache,
        reporter=reporter,
        folder=workspace.folder,
        insecure=is_file(source),
    )
    with in_use(get, cache) as fetched:
        try:
            yield _examined(workspace.cluster, fetched, cache, reporter)
        finally:
            prepared = prepared_in(workspace.cluster)
            if prepared.is_dir():
                note_prepared(cache, prepared, workspace.cluster.name, fetched.digest)


def present_base(workspace: Workspace, named: str = "", *, cache: Cache | None = None) -> Base | None:
    """The base image, as for ``opened_base``, if it is in the cache: only to find out what nodes are made of.

    Nothing is downloaded or written. Raises PiimgError.
    """
    cache = cache or Cache(default_folder())
    source = from_here(named) if named else workspace.cluster.base
    found = in_cache(source, catalogues=workspace.catalogues, cache=cache, folder=workspace.folder)
    return _examined(workspace.cluster, found, cache, Silent()) if found else None


def known_release(workspace: Workspace, *, cache: Cache | None = None) -> Release:
    """The release of the manifest's base image: as it is named, else of the image if it is in the cache.

    Raises UsageError if it is not known.
    """
    try:
        return workspace.release
    except UsageError:
        try:
            base = present_base(workspace, cache=cache)
        except PiimgError:
            base = None  # what is wrong with it is reported when it is used
        if base is None:
            raise
        return base.info.release


@dataclass(frozen=True)
class Ingredients:
    """What a node is prepared from.

    ``base`` is dressed if the node has packages or build scripts, ``plan`` is fitted to it and has the
    content of its downloads, ``recipe`` is a digest of both.
    """

    plan: NodePlan
    base: Base
    recipe: Recipe


def present_ingredients(
    cluster: Cluster, plans: Sequence[NodePlan], base: Base, *, cache: Cache | None = None
) -> dict[str, Ingredients]:
    """What each node of ``plans`` is prepared from now, by node, from the ``base`` image.

    Nothing is downloaded, installed or written: nodes whose dressed base or downloads are not in the cache
    are left out. Raises PiimgError.
    """
    check_architecture(plans, base.info.architecture, base.name)
    bases, found = {plan.node.name: base for plan in plans}, plans
    if any(map(_more_than_files, plans)):
        from imagebuilder.dressing.bases import present_bases  # only here: it takes long to load
        from imagebuilder.dressing.downloads import filled_from
        from imagebuilder.dressing.secrets import with_secrets

        cache = cache or Cache(default_folder())
        bases = present_bases(plans, base, cluster.interfaces, cache)
        filled = (filled_from(plan, cache) for plan in plans if plan.node.name in bases)
        found = [with_secrets(plan, bases[plan.node.name], cluster, keep=False) for plan in filled if plan]
    return {plan.node.name: _ingredients(cluster, plan, bases[plan.node.name]) for plan in found}


@contextlib.contextmanager
def _all_ingredients(
    cluster: Cluster,
    plans: Sequence[NodePlan],
    base: Base,
    cache: Cache | None,
    reporter: Reporter,
    stop: threading.Event,
    refresh: bool,
) -> Iterator[list[Ingredients]]:
    """What each node of ``plans`` is prepared from, made first if it is missing, or with ``refresh``.

    Dressed bases stay in the cache while the block runs, and while a prepared node needs them.
    """
    check_architecture(plans, base.info.architecture, base.name)
    if not any(map(_more_than_files, plans)):
        yield [_ingredients(cluster, plan, base) for plan in plans]
        return
    from imagebuilder.dressing.bases import bases_of  # only here: it takes long to load
    from imagebuilder.dressing.downloads import filled
    from imagebuilder.dressing.secrets import with_secrets

    cache = cache or Cache(default_folder())
    plans = filled(plans, cache, reporter, stop)
    with bases_of(plans, base, cluster.interfaces, cache, reporter, stop, refresh=refresh) as bases:
        for digest in {one.digest for one in bases.values() if one.made_from}:
            note_prepared(cache, prepared_folder(cluster), cluster.name, digest)
        pairs = ((plan, bases[plan.node.name]) for plan in plans)
        yield [_ingredients(cluster, with_secrets(plan, one, cluster), one) for plan, one in pairs]


def _more_than_files(plan: NodePlan) -> bool:
    """Whether a node has packages, build scripts or downloads."""
    return bool(plan.software) or any(entry.download for entry in plan.entries)


def _ingredients(cluster: Cluster, plan: NodePlan, base: Base) -> Ingredients:
    plan, recipe = fitted_recipe(cluster, plan, base)
    return Ingredients(plan, base, recipe)


def _examined(cluster: Cluster, fetched: Fetched, cache: Cache, reporter: Reporter) -> Base:
    opened = open_base(
        fetched.path,
        fetched.base.name,
        fetched.digest,
        reporter,
        cluster.interfaces,
        cache.base_index(fetched.digest),
    )
    if cluster.release not in (None, opened.info.release):
        raise UsageError(
            f"the manifest says release {cluster.release}, but {fetched.base.name} is {opened.info.release}",
            "remove release from the manifest, or choose another base image",
        )
    for node in cluster.nodes:
        if opened.info.architecture and opened.info.architecture not in node.board.architectures:
            raise UsageError(
                f"{node.name}: {node.board.title} cannot boot {fetched.base.name} "
                f"({opened.info.architecture})",
                "choose another base image",
            )
    return opened


@contextlib.contextmanager
def prepare_nodes(
    cluster: Cluster,
    plans: Sequence[NodePlan],
    base: Base,
    *,
    jobs: int = 1,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    cache: Cache | None = None,
    refresh: bool = False,
) -> Iterator[list[PreparedNode]]:
    """Prepare the nodes of ``plans`` that are not up to date, ``jobs`` at a time.

    Gives all of them, in the order of ``plans``. Up to date is a node that was prepared from the same base
    image and entries. Packages and build scripts are put into the base image first, once for nodes with the
    same ones, and again with ``refresh``; the result stays in ``cache`` (default: the user's) while the block
    runs. The first failure stops the others cleanly. ``stop``, which any thread may set, stops them with
    Interrupted. An exception in the calling thread, such as KeyboardInterrupt, is raised after the workers
    have ended. Raises PiimgError.
    """
    reporter, stop = reporter or Silent(), stop or threading.Event()
    folder = prepared_folder(cluster)
    text = "waiting: another piimg prepares nodes of this cluster"
    waits = partial(reporter.emit, Message("info", text))
    with _all_ingredients(cluster, plans, base, cache, reporter, stop, refresh) as all_of_them:
        with files.locked_after_waiting(folder / ".lock", waits, stop):
            files.hand_over(folder / ".lock", folder)
            _remove_others(cluster, folder)
            remove_left_over(folder)
            nodes = _prepared(cluster, all_of_them, folder, jobs, reporter, stop)
        yield nodes


def _remove_others(cluster: Cluster, folder: Path) -> None:
    """Remove what is left of nodes that the manifest does not have any more: it has secrets."""
    for name in set(nodes_in(folder)) - {node.name for node in cluster.nodes}:
        PreparedFiles(folder, name).clear()


def _prepared(
    cluster: Cluster,
    wanted: Sequence[Ingredients],
    folder: Path,
    jobs: int,
    reporter: Reporter,
    stop: threading.Event,
) -> list[PreparedNode]:
    places = {each.plan.node.name: PreparedFiles(folder, each.plan.node.name) for each in wanted}
    ready = {name: node for each in wanted if (node := up_to_date(places[name := each.plan.node.name], each))}
    for name, node in ready.items():
        _log.info("%s: prepared already, tree digest %s", name, node.tree_digest)
    missing = [each for each in wanted if each.plan.node.name not in ready]
    report_reasons(
        {each.plan.node.name: _reason(places[each.plan.node.name], each) for each in missing}, reporter
    )
    for digest in dict.fromkeys(each.base.digest for each in missing):
        same = [each for each in missing if each.base.digest == digest]
        with bench(same[0].base, folder, reporter) as shared:

            def prepare(each: Ingredients, shared: Bench = shared) -> PreparedNode:
                place = places[each.plan.node.name]
                with task(reporter, "prepare", place.node):
                    return prepare_node(cluster, each.plan, each.recipe, shared, place, reporter, stop)

            for node in _in_parallel(prepare, same, jobs, "prepare", stop):
                ready[node.node] = node
    return [ready[each.plan.node.name] for each in wanted]


def _reason(place: PreparedFiles, now: Ingredients) -> str:
    record = read_record(place)
    return reason(record.parts if record else None, now.recipe, kept=place.record.exists())


def report_reasons(reasons: Mapping[str, str], reporter: Reporter) -> None:
    """Report why nodes, by name, are prepared: in one line for many of the same reason."""
    for why in dict.fromkeys(reasons.values()):
        nodes = [node for node, its in reasons.items() if its == why]
        if len(nodes) > _FEW:
            reporter.emit(Message("info", f"{len(nodes)} nodes: {why}", data={"nodes": nodes}))
        else:
            for node in nodes:
                reporter.emit(Message("info", why, node))


def up_to_date(place: PreparedFiles, now: Ingredients) -> PreparedNode | None:
    """The prepared node in ``place``, if it is what ``now`` gives; else None."""
    found = load(place, now.base.file, now.base.digest)
    return found if found and found.recipe.name == now.recipe.name else None


def prepared_in(cluster: Cluster) -> Path:
    """The path of the folder of the cluster's prepared nodes."""
    return cluster.folder / "state" / cluster.name / "prepared"


def prepared_folder(cluster: Cluster) -> Path:
    """The folder of the cluster's prepared nodes, created with 0700 for the owner of the cluster folder."""
    folder = prepared_in(cluster)
    try:
        files.make_private(folder, cluster.folder)
    except OSError as error:
        raise PiimgError(f"cannot create {folder}: {error.strerror}", "check its permissions") from error
    return folder


def build_nodes(
    cluster: Cluster,
    plans: Sequence[NodePlan],
    base: Base,
    folder: Path,
    *,
    jobs: int = 1,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    cache: Cache | None = None,
    refresh: bool = False,
) -> list[NodeImage]:
    """Prepare the nodes of ``plans``, and write their whole images into ``folder``, ``jobs`` at a time.

    As for ``prepare_nodes``. All files belong to the owner of the cluster folder. Raises PiimgError.
    """
    reporter, stop = reporter or Silent(), stop or threading.Event()
    made_folder(folder, cluster.folder)

    def write(node: PreparedNode) -> NodeImage:
        if stop.is_set():
            raise Interrupted(f"building {node.node} was stopped", "no partial result was left")
        with task(reporter, "build", node.node):
            return write_image(node, folder)

    making = prepare_nodes(
        cluster, plans, base, jobs=jobs, reporter=reporter, stop=stop, cache=cache, refresh=refresh
    )
    with making as prepared:
        images = _in_parallel(write, prepared, jobs, "build", stop)
    for image in images:
        for file in (image.results.image, image.results.block_map, image.results.json, image.results.lock):
            files.hand_over(file, cluster.folder)
    return images


def _in_parallel(
    work: Callable[[_Given], _Made], given: Sequence[_Given], jobs: int, name: str, stop: threading.Event
) -> list[_Made]:
    """The results of ``work`` for each of ``given``, in their order, ``jobs`` at a time."""
    with ThreadPoolExecutor(jobs, thread_name_prefix=name) as pool:
        futures = [pool.submit(work, each) for each in given]
        try:
            wait_for(futures, until_one_fails=True)
        finally:
            # Futures are left only after a failure or Ctrl-C: the pool's exit waits for the workers to end.
            if not all(future.done() and not future.exception() for future in futures):
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    if errors:  # Interrupted may be a consequence of another error, which is the one to report
        raise next((error for error in errors if not isinstance(error, Interrupted)), errors[0])
    return [future.result() for future in futures]
