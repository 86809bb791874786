"""Plans whose files may be shown: rendered with a mask in place of each secret."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from imagebuilder.cli.secrets import gather, public_keys
from imagebuilder.cli.session import Session
from imagebuilder.errors import UsageError
from imagebuilder.events import Silent
from imagebuilder.keys.credentials import masked_credentials
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Node, NodePlan, Release
from imagebuilder.plan import plan_nodes
from imagebuilder.workspace import Workspace


@dataclass(frozen=True)
class MaskedPlans:
    """Plans without any secret. ``hidden``: files with a secret are empty, as they cannot be masked."""

    plans: Sequence[NodePlan]
    hidden: bool = False


def plans_to_show(session: Session, nodes: Sequence[Node], release: Release) -> MaskedPlans:
    """The plans of ``nodes`` of the manifest, without secrets.

    Where a template computes with the value of a secret, all secrets are needed, and files with one are left
    empty. Raises UsageError.
    """
    try:
        return MaskedPlans(masked_plans(session.workspace, nodes, release))
    except UsageError:
        # If a template is at fault, and not the mask, it is now, too, and the error is raised.
        workspace = session.workspace
        credentials = gather(workspace, workspace.keys(keep=False), Silent())
        plans = plan_nodes(workspace.cluster, nodes, release, credentials, workspace.overlays)
        return MaskedPlans([_without_secrets(plan) for plan in plans], hidden=True)


def masked_plans(
    workspace: Workspace, nodes: Sequence[Node], release: Release, keys: KeyStore | None = None
) -> list[NodePlan]:
    """The plans of ``nodes`` with masks; ``keys`` in place of the cluster's own. Raises UsageError."""
    keys = keys or workspace.keys(keep=False)
    credentials = masked_credentials(workspace.cluster, keys, public_keys())
    return plan_nodes(workspace.cluster, nodes, release, credentials, workspace.overlays)


def _without_secrets(plan: NodePlan) -> NodePlan:
    entries = (replace(entry, content=b"") if entry.secret else entry for entry in plan.entries)
    return replace(plan, entries=tuple(entries))
