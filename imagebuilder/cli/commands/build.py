"""`piimg build`: each node's image from the base image and the node's overlay."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.base.catalogue import from_here, is_file
from imagebuilder.base.fetch import Fetched, fetch, in_use
from imagebuilder.cli.completion import complete_bases
from imagebuilder.cli.format import size
from imagebuilder.cli.options import named_nodes
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.secrets import gather, secrets
from imagebuilder.cli.session import Session, chosen_nodes, tell_of_idle_layers
from imagebuilder.errors import Interrupted, PiimgError, UsageError
from imagebuilder.events import Finished, Message, Started
from imagebuilder.image.base.opening import Base, open_base
from imagebuilder.image.build import NodeImage, build_node
from imagebuilder.image.results import read_document
from imagebuilder.keys.store import State
from imagebuilder.model import NodePlan
from imagebuilder.plan import board_notes, plan_nodes
from imagebuilder.system import files
from imagebuilder.system.cleanup import cleanup
from imagebuilder.system.process import locate
from imagebuilder.system.threads import wait_for

EXAMPLES = """\b
Examples:
  piimg build --node worker2             one node, into build/
  piimg build --all --jobs 2             every node, two at a time
  piimg build --all --base my-base.img   on a base image of your own
"""


@click.command("build", epilog=EXAMPLES)
@named_nodes("Build this node (repeatable).")
@click.option("--all", "every", is_flag=True, help="Build every node of the manifest.")
@click.option(
    "--base",
    metavar="NAME|URL|FILE",
    shell_complete=complete_bases,
    help="The base image, instead of the manifest's.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the results (default: build/ beside the manifest).",
)
@click.option(
    "--jobs", "-j", type=click.IntRange(1, 64), help="How many nodes at a time (default: one a processor)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON document.")
@click.pass_obj
def build(
    session: Session,
    nodes: tuple[str, ...],
    every: bool,
    base: str | None,
    output: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Build node images: NODE.img, NODE.bmap and NODE.json.

    The base image is fetched into the cache first if it is not there. A build never changes it. With root
    the root partition is mounted through a loop device, otherwise with fuse2fs; the result is the same.
    """
    chosen = chosen_nodes(session.cluster, nodes, every)
    folder = output or session.images
    if _root_is_for_nothing(session.folder):
        text = (
            "root is needed for nothing here: without sudo the result is the same, by fuse2fs and more slowly"
        )
        session.reporter.emit(Message("info", text))
    cleanup_quietly()
    given = secrets(session.cluster, session.reporter)  # before a long download, not after it
    with base_image(session, base) as opened:
        credentials = gather(session.cluster, State(session.state), session.reporter, given)
        plans = plan_nodes(session.cluster, chosen, opened.info.release, credentials, session.overlays)
        tell_of_idle_layers(session)
        for node in chosen:
            for note in board_notes(node):
                session.reporter.emit(Message("info", f"{node.name}: {note}", node.name))
        _make(folder, session.folder)
        built = build_all(session, plans, opened, folder, jobs or os.cpu_count() or 1)
    session.settle()
    for image in built:
        for file in (image.results.image, image.results.block_map, image.results.json, image.results.lock):
            files.hand_over(file, session.folder)
    if as_json:
        echo_json([read_document(image.results.json) for image in built])
        return
    for image in built:
        used = image.block_map
        echo(f"{image.results.image}  {size(used.image_size)}, {size(used.used)} in use")


def _make(folder: Path, home: Path) -> None:
    """Make ``folder`` for the owner of ``home``; one that was there keeps its owner."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            files.hand_over(folder, home)
    except OSError as error:
        raise PiimgError(f"cannot make {folder}: {error.strerror}", "name another with --output") from error


def _root_is_for_nothing(folder: Path) -> bool:
    """Whether this is sudo, and the user who called it could build in ``folder`` as well."""
    user = os.environ.get("SUDO_UID", "0")
    try:
        fuse = Path("/dev/fuse").stat().st_mode & 0o006 == 0o006
        own = folder.stat().st_uid == int(user) != 0
    except (OSError, ValueError):
        return False
    return os.geteuid() == 0 and own and fuse and all(map(locate, ("fuse2fs", "fusermount3")))


@contextlib.contextmanager
def base_image(session: Session, named: str | None) -> Iterator[Base]:
    """The base image ``named``, or the manifest's: fetched if need be, looked into, and held in the cache."""
    cache, what = Cache(default_folder()), from_here(named) if named else session.cluster.base
    get = partial(
        fetch,
        what,
        catalogues=session.catalogues,
        cache=cache,
        reporter=session.reporter,
        folder=session.folder,
        insecure=is_file(what),  # a file of one's own is meant as it is; NODE.json tells its checksum
    )
    with in_use(get, cache) as fetched:
        yield _looked_into(session, fetched)


def _looked_into(session: Session, fetched: Fetched) -> Base:
    cluster = session.cluster
    opened = open_base(fetched.path, fetched.base.name, fetched.digest, session.reporter, cluster.interfaces)
    if cluster.release not in (None, opened.info.release):
        raise UsageError(
            f"the manifest says release {cluster.release}, but {fetched.base.name} is {opened.info.release}",
            "take release out of the manifest, or name another base image",
        )
    for node in cluster.nodes:
        if opened.info.architecture and opened.info.architecture not in node.board.architectures:
            raise UsageError(
                f"{node.name}: {node.board.title} does not start {fetched.base.name} "
                f"({opened.info.architecture})",
                "choose another base image",
            )
    return opened


def build_all(
    session: Session, plans: Sequence[NodePlan], base: Base, folder: Path, jobs: int
) -> list[NodeImage]:
    """Build several nodes, ``jobs`` at a time. The first failure, or Ctrl-C, stops the others cleanly."""
    stop = threading.Event()
    size_of_base = base.file.stat().st_size
    for plan in plans:
        session.reporter.expect(plan.node.name, size_of_base, plan.node.name)
    one = partial(_build_one, session, base=base, folder=folder, stop=stop)
    with ThreadPoolExecutor(jobs, thread_name_prefix="build") as pool:
        futures = [pool.submit(one, plan) for plan in plans]
        try:
            wait_for(futures, until_one_fails=True)
        finally:
            # Reached with work left only on a failure or Ctrl-C: the pool's exit waits for the clean end.
            if not all(future.done() and not future.exception() for future in futures):
                if not any(future.done() and future.exception() for future in futures):
                    session.reporter.emit(Message("info", "stopping, and cleaning up …"))
                    session.reporter.stopping = True
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    if errors:  # the others were stopped because of one: that one is what the user must hear of
        raise next((error for error in errors if not isinstance(error, Interrupted)), errors[0])
    return [future.result() for future in futures]


def _build_one(
    session: Session, plan: NodePlan, base: Base, folder: Path, stop: threading.Event
) -> NodeImage:
    """Build a node, and tell when it is begun and when it has ended as a whole."""
    reporter, name, ok = session.reporter, plan.node.name, False
    reporter.emit(Started("build", name))
    try:
        image = build_node(session.cluster, plan, base, folder, reporter, stop)
        ok = True
        return image
    finally:
        reporter.emit(Finished("build", name, ok))


def cleanup_quietly() -> None:
    """Free what a killed run left, before starting anew. What cannot be freed is no reason to stop."""
    try:
        cleanup()
    except PiimgError:
        pass  # `piimg cleanup` tells it
