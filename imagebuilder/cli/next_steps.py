"""What to do with cards that are written: which one into which machine, in which order, how to log in."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.card.report import CardReport
from imagebuilder.cli.session import Session
from imagebuilder.errors import PiimgError
from imagebuilder.export import default_via
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
    gateway = cluster.gateway.node
    nodes.sort(key=lambda node: node.name != gateway)  # the gateway first
    width, boards = max(len(node.name) for node in nodes), max(len(node.board.title) for node in nodes)
    rows = [
        f"  {node.name:<{width}}  {node.board.title:<{boards}}  {slots[node.name]}"
        + ("  first: it is the gateway" if node.name == gateway else "")
        for node in nodes
    ]
    return "\n".join(
        [
            "Next: put each card into its machine, and switch it on.",
            *rows,
            "The first start takes some minutes: the file system grows, and scripts run once.",
            f"Then log in to the gateway: {login_command(cluster, keys)}",
            "For ssh to every node by its name: piimg export ssh-config, and piimg export known-hosts",
        ]
    )


def login_command(cluster: Cluster, keys: KeyStore) -> str:
    """The ssh command that reaches the gateway from the home network, by its name there.

    With the cluster's own login key, if there is one.
    """
    key: Path = keys.user_key_file
    identity = ["-i", str(key)] if key.exists() else []
    via = default_via(cluster)
    port = [] if via.port == SSH_PORT else ["-p", str(via.port)]
    return shlex.join(["ssh", *identity, *port, f"{cluster.user.name}@{via.host}"])
