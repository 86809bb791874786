"""The session of a command: the manifest with its cluster folder, and the reporter."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from imagebuilder.cli.inputs import refuse_replaced
from imagebuilder.cli.log import end_logged, logging_to
from imagebuilder.cli.manifest_file import manifest_file
from imagebuilder.cli.progress.base import Renderer
from imagebuilder.cli.progress.choice import renderer
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message
from imagebuilder.model import Cluster, Node
from imagebuilder.plan import board_notes, idle_layers
from imagebuilder.text import did_you_mean
from imagebuilder.workspace import Workspace, shipped_catalogue


@dataclass
class Session:
    """One run of piimg. ``chosen`` is the --manifest given, if any; ``stop`` is set by a signal."""

    reporter: Renderer
    chosen: Path | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    show_page: Callable[[], None] = lambda: None
    """Says where the page of the run is, once: after the checks (web/run_page.py)."""
    show_code: Callable[[], None] = lambda: None
    """Prints the QR code of the page, once: just before a question, where it stays on the screen."""

    @cached_property
    def manifest_path(self) -> Path:
        """The manifest: --manifest, else $PIIMG_MANIFEST, else cluster.toml in this folder."""
        return manifest_file(self.chosen)

    def settle(self) -> None:
        """Release the terminal: until then bars are painted over other output."""
        self.reporter.close()

    @property
    def has_manifest(self) -> bool:
        """Whether there is a manifest, named or found."""
        try:
            return self.manifest_path.exists()
        except UsageError:
            return False

    @cached_property
    def workspace(self) -> Workspace:
        """The cluster folder of the manifest. Raises UsageError when no manifest is named or found."""
        return Workspace(self.manifest_path)

    @property
    def cluster(self) -> Cluster:
        """The checked manifest. Raises UsageError with every error in it."""
        return self.workspace.cluster

    @property
    def catalogues(self) -> tuple[Path, ...]:
        """The images.toml files that name base images, where there is no manifest too."""
        return self.workspace.catalogues if self.has_manifest else (shipped_catalogue(),)


@contextlib.contextmanager
def session_of(options: Mapping[str, Any]) -> Iterator[Session]:
    """The session of a command; its progress is shown and its log written within the block.

    ``options`` are those before the command (main.py), by the names of their parameters. Raises UsageError
    when the log cannot be written.
    """
    with renderer(options["mode"]) as shown_by:
        session, log = Session(reporter=shown_by, chosen=options["manifest"]), options["log_file"]
        if log is not None:
            refuse_replaced(session.workspace if session.has_manifest else None, "--log-file", log)
        with logging_to(log, options["verbosity"], shown_by), end_logged():
            yield session


def chosen_nodes(cluster: Cluster, names: tuple[str, ...], every: bool) -> list[Node]:
    """The requested nodes, in the manifest's order. Raises UsageError for an unknown node."""
    if every and names:
        raise UsageError("--node and --all exclude each other", "use one of them")
    if not every and not names:
        raise UsageError("no node is named", "name one with --node NAME, or use --all")
    known = [node.name for node in cluster.nodes]
    for name in names:
        if name not in known:
            raise UsageError(
                f"the manifest has no node {name}{did_you_mean(name, known)}", f"it has {', '.join(known)}"
            )
    return [node for node in cluster.nodes if every or node.name in names]


def warn_of_idle_layers(session: Session) -> None:
    """Warn about the cluster's own layers that no node uses: a name may be misspelled."""
    for idle in idle_layers(session.cluster, session.workspace.overlays):
        session.reporter.emit(Message("warning", idle.text, data={"layer": idle.name}))


def node_notes(session: Session, names: Sequence[str]) -> Iterator[str]:
    """Notes about the boards of these nodes; none without a manifest."""
    nodes: dict[str, Node] = {}
    if session.has_manifest:
        with contextlib.suppress(PiimgError):  # the images are built, so errors in the manifest do not matter
            nodes = {node.name: node for node in session.cluster.nodes}
    for name in names:
        if name in nodes:
            yield from (f"{name}: {note}" for note in board_notes(nodes[name]))
