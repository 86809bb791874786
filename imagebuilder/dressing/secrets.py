"""Secrets that a package would make at random, and that all nodes of a cluster must share instead.

Made at build time, such a secret would be that of everybody who has the dressed base, and another one in the
next base. So it is removed there (tidy.py), and each cluster has its own, in its state folder.
"""

import dataclasses
from pathlib import Path

from imagebuilder.image.base.opening import Base
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Cluster, Entry, Kind, NodePlan, Partition

_MUNGE_KEY = "/etc/munge/munge.key"  # munged(8)
_MUNGE_BYTES = 128  # as mungekey(8) makes it


def with_secrets(plan: NodePlan, base: Base, cluster: Cluster) -> NodePlan:
    """``plan`` with the cluster's own munge key, if munge is installed and no layer has a key.

    Raises PiimgError when the key cannot be stored or read.
    """
    number = base.accounts.get("munge")
    present = {entry.path for entry in plan.entries if entry.partition is Partition.ROOT}
    if number is None or _MUNGE_KEY in present or not any(one.name == "munge" for one in base.packages):
        return plan
    key = KeyStore(_state(cluster)).random("munge-key", _MUNGE_BYTES)
    entry = Entry(
        Partition.ROOT, _MUNGE_KEY, Kind.FILE, "packages", "the package munge", 0o400, number, number,
        content=key, secret=True,
    )  # fmt: skip
    return dataclasses.replace(plan, entries=(*plan.entries, entry))


def _state(cluster: Cluster) -> Path:
    """The cluster's state folder, as workspace.py has it."""
    return cluster.folder / "state" / cluster.name
