"""The plan: manifest and overlays to what each node gets. Needs no root, no image, no network."""

from collections.abc import Sequence

from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Credentials, Node, NodePlan, Release
from imagebuilder.overlay import layer as layers
from imagebuilder.overlay.layer import Layer, Overlays
from imagebuilder.overlay.merge import merge
from imagebuilder.overlay.rendering import Renderer, Rendering

SHARED = {Release.BOOKWORM: ("network-manager",), Release.TRIXIE: ("network-manager",)}
"""Layers that several releases share; they come before the release's own."""


def layer_order(cluster: Cluster, node: Node, release: Release) -> tuple[str, ...]:
    """The names of a node's layers in the order they are merged; later ones win."""
    order = (
        "base",
        *SHARED.get(release, ()),
        f"os-{release}",
        node.role,
        *cluster.layers,
        *node.layers,
        f"node-{node.name}",
    )
    return tuple(dict.fromkeys(order))


def plan_node(
    cluster: Cluster, node: Node, release: Release, credentials: Credentials, overlays: Overlays
) -> NodePlan:
    """What one node gets on a base image of ``release``. Raises UsageError naming the file at fault."""
    return plan_nodes(cluster, [node], release, credentials, overlays)[0]


def plan_nodes(
    cluster: Cluster, nodes: Sequence[Node], release: Release, credentials: Credentials, overlays: Overlays
) -> list[NodePlan]:
    """What each of ``nodes`` gets on a base image of ``release``; one process renders for all of them.

    Raises UsageError naming the file at fault.
    """
    plans = []
    with Rendering() as rendering:
        for node in nodes:
            found = _layers(cluster, node, release, overlays)
            entries = merge(found, Renderer(rendering, cluster, node, release, credentials))
            plans.append(NodePlan(node, release, tuple(layer.name for layer in found), entries))
    return plans


def _layers(cluster: Cluster, node: Node, release: Release, overlays: Overlays) -> Sequence[Layer]:
    found: list[Layer] = []
    known = overlays.names()
    for name in layer_order(cluster, node, release):
        if name not in known:
            if name.startswith("node-"):
                continue
            raise UsageError(
                f"there is no layer {name}", f"make the folder overlays/{name}/, or mend the manifest"
            )
        for folder in overlays.folders:
            if (folder / name).is_dir():
                shown = name if folder == overlays.shipped else f"{name} (own)"
                found.append(layers.read(shown, folder / name))
    return found
