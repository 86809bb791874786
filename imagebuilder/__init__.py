"""piimg: from one cluster manifest to verified, bootable Raspberry Pi SD cards.

The names below are the library (docs/library.md); all else in these packages may change in any version.
Each is loaded when it is first used, so that importing one costs no more than it needs.
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
        """A name of the library, loaded from its module (PEP 562)."""
        for module, names in _EXPORTS.items():
            if name in names:
                found = getattr(importlib.import_module(f"imagebuilder.{module}"), name)
                globals()[name] = found
                return found
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
"""By module: the names of the library in it. A test holds this and the imports above together."""

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
