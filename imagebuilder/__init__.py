"""piimg: from one cluster manifest to verified, bootable Raspberry Pi SD cards.

The names in ``__all__`` are the public API (docs/library.md); everything else may change in any version.
Each name is imported on first use, so that ``import imagebuilder`` stays fast.
"""

import importlib
from typing import TYPE_CHECKING

from imagebuilder.version import __version__

if TYPE_CHECKING:
    from imagebuilder.base.cache import Cache
    from imagebuilder.builder import build_nodes, opened_base
    from imagebuilder.card.report import CardReport, Verdict
    from imagebuilder.card.verification import verify_card
    from imagebuilder.errors import Interrupted, PiimgError, UsageError
    from imagebuilder.events import Advanced, Event, Finished, Message, Reporter, Silent, Started
    from imagebuilder.image.base.opening import Base
    from imagebuilder.image.build import NodeImage
    from imagebuilder.keys.credentials import make_credentials
    from imagebuilder.keys.store import KeyStore
    from imagebuilder.model import Cluster, Credentials, Entry, Node, NodePlan, Release
    from imagebuilder.plan import plan_nodes
    from imagebuilder.workspace import Workspace
else:

    def __getattr__(name: str) -> object:
        """Import a public name from its module on first use (PEP 562)."""
        for module, names in _EXPORTS.items():
            if name in names:
                value = getattr(importlib.import_module(f"imagebuilder.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_EXPORTS = {
    "base.cache": ("Cache",),
    "builder": ("build_nodes", "opened_base"),
    "card.report": ("CardReport", "Verdict"),
    "card.verification": ("verify_card",),
    "errors": ("Interrupted", "PiimgError", "UsageError"),
    "events": ("Advanced", "Event", "Finished", "Message", "Reporter", "Silent", "Started"),
    "image.base.opening": ("Base",),
    "image.build": ("NodeImage",),
    "keys.credentials": ("make_credentials",),
    "keys.store": ("KeyStore",),
    "model": ("Cluster", "Credentials", "Entry", "Node", "NodePlan", "Release"),
    "plan": ("plan_nodes",),
    "workspace": ("Workspace",),
}
"""The public names of each module. A test checks that this table agrees with the imports above."""

__all__ = [
    "Advanced",
    "Base",
    "Cache",
    "CardReport",
    "Cluster",
    "Credentials",
    "Entry",
    "Event",
    "Finished",
    "Interrupted",
    "KeyStore",
    "Message",
    "Node",
    "NodeImage",
    "NodePlan",
    "PiimgError",
    "Release",
    "Reporter",
    "Silent",
    "Started",
    "UsageError",
    "Verdict",
    "Workspace",
    "__version__",
    "build_nodes",
    "make_credentials",
    "opened_base",
    "plan_nodes",
    "verify_card",
]
