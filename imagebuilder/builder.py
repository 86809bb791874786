"""Build of a cluster: fetch and open the base image, build node images in parallel."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.base.catalogue import from_here, is_file
from imagebuilder.base.fetch import Fetched, fetch, in_use
from imagebuilder.errors import Interrupted, PiimgError, UsageError
from imagebuilder.events import Reporter, Silent
from imagebuilder.image.base.opening import Base, open_base
from imagebuilder.image.build import NodeImage, build_node
from imagebuilder.model import Cluster, NodePlan
from imagebuilder.progress import task
from imagebuilder.system import files
from imagebuilder.system.threads import wait_for
from imagebuilder.workspace import Workspace


@contextlib.contextmanager
def opened_base(
    workspace: Workspace, named: str = "", *, cache: Cache | None = None, reporter: Reporter | None = None
) -> Iterator[Base]:
    """Fetch (if needed) and examine the base image ``named`` (a NAME, URL or FILE), else the manifest's.

    It stays in ``cache`` (default: the user's) while the block runs. A FILE needs no checksum: it is used
    unchecked, and NODE.json records its digest. Raises PiimgError when it cannot be fetched, has another
    release than the manifest, or cannot boot on a board of the cluster.
    """
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
        yield _examined(workspace.cluster, fetched, cache, reporter)


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


def build_nodes(
    cluster: Cluster,
    plans: Sequence[NodePlan],
    base: Base,
    folder: Path,
    *,
    jobs: int = 1,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
) -> list[NodeImage]:
    """Build the node images of ``plans`` into ``folder``, ``jobs`` at a time, in the order of ``plans``.

    The first failure stops the others cleanly. ``stop``, which any thread may set, stops them with
    Interrupted. An exception in the calling thread, such as KeyboardInterrupt, is raised after the workers
    have ended. All files belong to the owner of the cluster folder. Raises PiimgError.
    """
    reporter, stop = reporter or Silent(), stop or threading.Event()
    _make(folder, cluster.folder)
    build = partial(_build, cluster, base=base, folder=folder, reporter=reporter, stop=stop)
    with ThreadPoolExecutor(jobs, thread_name_prefix="build") as pool:
        futures = [pool.submit(build, plan) for plan in plans]
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
    images = [future.result() for future in futures]
    for image in images:
        for file in (image.results.image, image.results.block_map, image.results.json, image.results.lock):
            files.hand_over(file, cluster.folder)
    return images


def _build(
    cluster: Cluster, plan: NodePlan, *, base: Base, folder: Path, reporter: Reporter, stop: threading.Event
) -> NodeImage:
    """Build a node: the outer task of all its tasks."""
    with task(reporter, "build", plan.node.name):
        return build_node(cluster, plan, base, folder, reporter, stop)


def _make(folder: Path, home: Path) -> None:
    """Create ``folder`` for the owner of ``home``; an existing folder keeps its owner."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            files.hand_over(folder, home)
    except OSError as error:
        raise PiimgError(
            f"cannot create {folder}: {error.strerror}", "choose another with --output"
        ) from error
