"""The plan: manifest and overlays to what each node gets. Needs no root, no image, no network."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Credentials, Medium, Node, NodePlan, Release
from imagebuilder.overlay import layer as layers
from imagebuilder.overlay.layer import Layer, Overlays
from imagebuilder.overlay.merge import merge
from imagebuilder.overlay.rendering import Rendering, TemplateRenderer

_ROLES = ("master", "worker")
"""The roles that come with piimg."""


def layer_order(cluster: Cluster, node: Node, release: Release) -> tuple[str, ...]:
    """The names of a node's layers in the order they are merged; later ones win."""
    role = ("worker", node.role) if _begins_as_worker(cluster, node) else (node.role,)
    facts = release.facts
    order = (
        "base",
        *facts.layers,
        *([facts.network.layer] if facts.network.layer else []),
        f"os-{release}",
        *facts.swap_layers.get(node.swap.kind, ()),
        *role,
        *cluster.layers,
        *node.layers,
        f"node-{node.name}",
    )
    return tuple(dict.fromkeys(order))


def _begins_as_worker(cluster: Cluster, node: Node) -> bool:
    """Whether a node behind the gateway has a role of one's own: it needs what the shipped worker has.

    That is the key which opens the gateway, and the gateway's time. One's own layer ``worker`` is not for it.
    """
    named = (*cluster.layers, *node.layers)
    is_own = node.role not in _ROLES and not {*_ROLES} & {*named}
    return is_own and node.name != cluster.gateway.node


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
            entries = merge(found, TemplateRenderer(rendering, cluster, node, release, credentials))
            names = tuple(layer.name for layer in found)
            said = {layer.name: text for layer in found if (text := layer.declared.description)}
            plans.append(NodePlan(node, release, names, entries, said))
    return plans


def board_notes(node: Node) -> Iterator[str]:
    """What is worth knowing of a node's board before its card is made. No fault: an adapter may be there."""
    board = node.board
    if board.medium is Medium.EMMC:
        yield f"{board.title} has eMMC and reads no card: with rpiboot it can be written as a USB disk"
    elif board.medium is Medium.EITHER:
        yield (
            f"{board.title} with eMMC reads no card: only a Lite module does, in a carrier with a slot; "
            "eMMC can be written as a USB disk with rpiboot"
        )
    if node.wifi and not board.wifi:
        lacks = "has no Wi-Fi" if board.wifi is False else "does not always have Wi-Fi"
        yield f"{board.title} {lacks}: {node.wifi.interface} is then an adapter"
    if node.interface.startswith("e") and not board.wired:  # eth0, end0, enx…
        lacks = "has no wired port" if board.wired is False else "does not always have a wired port"
        yield f"{board.title} {lacks}: {node.interface} is then an adapter"


def _layers(cluster: Cluster, node: Node, release: Release, overlays: Overlays) -> Sequence[Layer]:
    found: list[Layer] = []
    known = overlays.names()
    for name in layer_order(cluster, node, release):
        if name not in known:
            if name.startswith("node-"):
                continue
            raise UsageError(
                f"there is no layer {name}", f"make the folder overlays/{name}/, or correct the manifest"
            )
        only_shipped = name == "worker" and _begins_as_worker(cluster, node)
        for folder in (overlays.shipped,) if only_shipped else overlays.folders:
            if (folder / name).is_dir():
                shown = name if folder == overlays.shipped else f"{name} (own)"
                found.append(layers.read(shown, folder / name))
    return found


@dataclass(frozen=True)
class Idle:
    """A folder of the cluster's own overlays/ that no node has: ``nearest`` is the name it may be meant for.

    ``is_layer`` is False where it holds nothing that a layer has.
    """

    name: str
    nearest: str
    is_layer: bool = True

    @property
    def text(self) -> str:
        """The folder, what is wrong with it and what to do, in a sentence."""
        if not self.is_layer:
            return f"overlays/{self.name}/ is no layer and is not used: a layer has {_PARTS} or layer.toml"
        meant = f"; is {self.nearest} meant?" if self.nearest else "; name it in layers, or remove it"
        return f"no node has the layer overlays/{self.name}/{meant}"


_PARTS = ", ".join(f"{tree}/" for tree in layers.TREES)


def idle_layers(cluster: Cluster, overlays: Overlays) -> Iterator[Idle]:
    """The layers of the cluster's own that no node of the manifest has, on any release."""
    if overlays.own in (None, overlays.shipped):
        return
    used: dict[str, None] = {}
    for node in cluster.nodes:
        for release in Release:
            used |= dict.fromkeys(layer_order(cluster, node, release))
    own = (overlays.own,) if overlays.own else ()
    for name in sorted(layers.names(own) - used.keys()):
        yield Idle(name, next(iter(difflib.get_close_matches(name, used, 1)), ""))
    for name in layers.strangers(own):
        yield Idle(name, "", is_layer=False)
