"""A summary of a cluster's plans: a row for each node, what all have in common, and what only some have.

Pure.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from imagebuilder.model import Cluster, Entry, Kind, Node, NodePlan, Partition
from imagebuilder.overlay.layer import FIRSTBOOT_FOLDER
from imagebuilder.settings import Policy

Place = tuple[Partition, str]
"""A path of a partition."""


@dataclass(frozen=True)
class NodeRow:
    """A node at a glance. The lists have what not all nodes have; ``packages`` are names."""

    node: Node
    way_out: str
    layers: tuple[str, ...]
    packages: tuple[str, ...]
    scripts: tuple[str, ...]
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Entries that only the nodes ``nodes`` have. ``varying`` are the paths whose entries differ."""

    nodes: tuple[str, ...]
    entries: tuple[Entry, ...]
    varying: tuple[Place, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """The paths, in order, each once."""
        return tuple(dict.fromkeys((entry.partition, entry.path) for entry in self.entries))


@dataclass(frozen=True)
class ClusterSummary:
    """All nodes, and what they have in common: layers, packages, scripts, secrets, entries (``common``).

    ``own`` are the groups of entries that only some nodes have, in the order of their first nodes.
    """

    rows: tuple[NodeRow, ...]
    layers: tuple[str, ...]
    packages: tuple[str, ...]
    scripts: tuple[str, ...]
    secrets: tuple[str, ...]
    common: Group
    own: tuple[Group, ...]


def summary(cluster: Cluster, plans: Sequence[NodePlan]) -> ClusterSummary:
    """The summary of ``plans``, which are of nodes of ``cluster``."""
    layers = _common([plan.layers for plan in plans])
    packages = _common([tuple(plan.software.packages) for plan in plans])
    scripts = _common([scripts_of(plan) for plan in plans])
    secrets = _common([plan.secrets for plan in plans])
    rows = tuple(
        NodeRow(
            plan.node,
            way_out(cluster, plan.node),
            _others(plan.layers, layers),
            _others(tuple(plan.software.packages), packages),
            _others(scripts_of(plan), scripts),
            _others(plan.secrets, secrets),
        )
        for plan in plans
    )
    everyone = tuple(plan.node.name for plan in plans)
    groups = {group.nodes: group for group in _groups(plans)}
    nothing = Group(everyone, (), ())
    common = groups.pop(everyone, nothing) if len(plans) > 1 else nothing
    return ClusterSummary(rows, layers, packages, scripts, secrets, common, tuple(groups.values()))


def scripts_of(plan: NodePlan) -> tuple[str, ...]:
    """The names of the scripts of a node, in the order in which they run: build.d, then the first boot."""
    built = tuple(script.name for script in plan.software.scripts)
    return built + tuple(
        PurePosixPath(entry.path).name
        for entry in plan.entries
        if entry.kind is Kind.FILE and entry.path.startswith(f"{FIRSTBOOT_FOLDER}/")
    )


def way_out(cluster: Cluster, node: Node) -> str:
    """How a node reaches the internet: an interface of its own, the gateway, a router, or "none"."""
    own = f"{node.wifi.interface} (Wi-Fi)" if node.wifi and not node.lan_wifi else ""
    gateway = cluster.gateway
    if gateway is None:
        return ", ".join(filter(None, (own, f"router {cluster.router}")))
    if cluster.is_gateway(node):
        return own if own.startswith(f"{gateway.uplink} ") else gateway.uplink
    through = gateway.node if gateway.policy is not Policy.OFF else ""
    return ", ".join(filter(None, (own, through))) or "none"


def _common(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What all ``lists`` have, in the order of the first; nothing for fewer than two."""
    if len(lists) < 2:
        return ()
    shared = set(lists[0]).intersection(*lists[1:])
    return tuple(each for each in lists[0] if each in shared)


def _others(these: Sequence[str], common: Collection[str]) -> tuple[str, ...]:
    return tuple(each for each in these if each not in common)


def _groups(plans: Sequence[NodePlan]) -> Iterator[Group]:
    """The entries of all nodes, grouped by who has something at their path."""
    at: dict[Place, dict[str, tuple[Entry, ...]]] = {}
    for plan in plans:
        for entry in plan.entries:
            nodes_there = at.setdefault((entry.partition, entry.path), {})
            nodes_there[plan.node.name] = (*nodes_there.get(plan.node.name, ()), entry)
    found: dict[tuple[str, ...], dict[Place, tuple[Entry, ...]]] = {}
    varying: set[Place] = set()
    for place, by_node in at.items():
        first, *others = by_node.values()
        found.setdefault(tuple(by_node), {})[place] = first
        if any(not _same(first, other) for other in others):
            varying.add(place)
    order = {plan.node.name: number for number, plan in enumerate(plans)}
    for nodes in sorted(found, key=lambda names: ([order[name] for name in names[:1]], -len(names))):
        here = found[nodes]
        places = sorted(here)
        entries = tuple(entry for place in places for entry in here[place])
        yield Group(nodes, entries, tuple(place for place in places if place in varying))


def _same(one: Sequence[Entry], other: Sequence[Entry]) -> bool:
    """Whether two nodes get the same at a path; from which layer does not matter."""
    return len(one) == len(other) and all(
        a is b
        or replace(a, layer="", source="", overrides=()) == replace(b, layer="", source="", overrides=())
        for a, b in zip(one, other, strict=True)
    )


def descriptions(plans: Sequence[NodePlan]) -> Mapping[str, str]:
    """The descriptions of the nodes' layers, by name; only of layers that have one."""
    return {name: text for plan in plans for name, text in plan.descriptions.items()}
