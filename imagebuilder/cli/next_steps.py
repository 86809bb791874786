"""What to do with cards that are written: which one into which machine, in which order, how to log in."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.card.report import CardReport
from imagebuilder.cli.session import Session
from imagebuilder.errors import PiimgError
from imagebuilder.export import Via, default_via
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Cluster
from imagebuilder.settings import SSH_PORT


def next_steps(session: Session, done: Sequence[CardReport]) -> str:
    """The next steps for the good cards of ``done``; empty without a manifest, and without a node's card."""
    try:
        if not session.has_manifest:
            return ""
        cluster, keys = session.cluster, session.workspace.keys(keep=False)
    except PiimgError:
        return ""
    slots = {card.node: card.slot for card in done if card.done and card.node}
    nodes = [node for node in cluster.nodes if node.name in slots]
    if not nodes:
        return ""
    nodes.sort(key=lambda node: not cluster.is_gateway(node))  # the gateway first
    width, boards = max(len(node.name) for node in nodes), max(len(node.board.title) for node in nodes)
    rows = [
        f"  {node.name:<{width}}  {node.board.title:<{boards}}  {slots[node.name]}"
        + ("  first: it is the gateway" if cluster.is_gateway(node) else "")
        for node in nodes
    ]
    return "\n".join(
        [
            "Next: put each card into its machine, and switch it on.",
            *rows,
            "The first start takes some minutes: the file system grows, and scripts run once.",
            f"Then log in to {_door(cluster)}: {login_command(cluster, keys)}",
            "For ssh to every node by its name: piimg export ssh-config, and piimg export known-hosts",
        ]
    )


def _door(cluster: Cluster) -> str:
    """The node that one logs in to first, in words."""
    return "the gateway" if cluster.gateway else f"a node, such as {cluster.nodes[0].name}"


def login_command(cluster: Cluster, keys: KeyStore, via: Via | None = None) -> str:
    """The ssh command that reaches the gateway from the home network, by its name there or at ``via``.

    Without a gateway, the one that reaches the first node by its address. With the cluster's own login key,
    if there is one.
    """
    key: Path = keys.user_key_file
    identity = ["-i", str(key)] if key.exists() else []
    via = via or default_via(cluster)
    host, number = (via.host, via.port) if via else (cluster.nodes[0].host, cluster.nodes[0].ssh_port)
    port = [] if number == SSH_PORT else ["-p", str(number)]
    return shlex.join(["ssh", *identity, *port, f"{cluster.user.name}@{host}"])
