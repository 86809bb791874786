"""What every command is given: the chosen manifest with its cluster folder, and the reporter."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from imagebuilder.cli.progress.base import Renderer
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message
from imagebuilder.model import Cluster, Node
from imagebuilder.plan import board_notes, idle_layers
from imagebuilder.text import did_you_mean
from imagebuilder.workspace import Workspace, shipped_catalogue

_DEFAULTS = ("cluster.toml", "manifests/picluster.toml")


@dataclass
class Session:
    """One run of piimg. ``chosen`` is the --manifest given, if any; ``stop`` is set by a wish to stop."""

    reporter: Renderer
    chosen: Path | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def manifest_path(self) -> Path:
        """The manifest: --manifest, else $PIIMG_MANIFEST, else cluster.toml in this folder."""
        named = self.chosen or (
            Path(os.environ["PIIMG_MANIFEST"]) if "PIIMG_MANIFEST" in os.environ else None
        )
        if named is not None:
            return named
        for name in _DEFAULTS:
            if Path(name).exists():
                return Path(name)
        raise UsageError(
            "no cluster manifest here: there is no cluster.toml in this folder",
            "name one with --manifest FILE, or lay out a new cluster with: piimg init DIR",
        )

    def settle(self) -> None:
        """Give the terminal back: bars are drawn anew until then, over whatever is printed."""
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


def chosen_nodes(cluster: Cluster, names: tuple[str, ...], every: bool) -> list[Node]:
    """The nodes a command was asked for, in the manifest's order. Raises UsageError for an unknown one."""
    if every and names:
        raise UsageError("--node and --all exclude each other", "take one of them")
    if not every and not names:
        raise UsageError("which nodes?", "name them with --node NAME, or take --all")
    known = [node.name for node in cluster.nodes]
    for name in names:
        if name not in known:
            raise UsageError(
                f"the manifest has no node {name}{did_you_mean(name, known)}", f"it has {', '.join(known)}"
            )
    return [node for node in cluster.nodes if every or node.name in names]


def tell_of_idle_layers(session: Session) -> None:
    """Warn of layers of the cluster's own that no node has: a name may be misspelled."""
    for idle in idle_layers(session.cluster, session.workspace.overlays):
        session.reporter.emit(Message("warning", idle.text, data={"layer": idle.name}))


def node_notes(session: Session, names: Sequence[str]) -> Iterator[str]:
    """What is worth knowing of the boards of these nodes, where there is a manifest to say it."""
    nodes: dict[str, Node] = {}
    if session.has_manifest:
        with contextlib.suppress(PiimgError):  # the images are built: a manifest that broke stops nothing
            nodes = {node.name: node for node in session.cluster.nodes}
    for name in names:
        if name in nodes:
            yield from (f"{name}: {note}" for note in board_notes(nodes[name]))
