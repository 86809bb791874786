"""Secrets that a package would make at random, and that all nodes of a cluster must share instead.

Made at build time, such a secret would be that of everybody who has the dressed base, and another one in the
next base. So it is removed there (tidy.py), and each cluster has its own, in its state folder.
"""

import dataclasses
from pathlib import Path

from imagebuilder.image.base.opening import Base
from imagebuilder.keys.missing import MUNGE_KEY
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Cluster, Entry, Kind, NodePlan, Partition

_MUNGE_FILE = "/etc/munge/munge.key"  # munged(8)
_MUNGE_BYTES = 128  # as mungekey(8) makes it


def with_secrets(plan: NodePlan, base: Base, cluster: Cluster, *, keep: bool = True) -> NodePlan:
    """``plan`` with the cluster's own munge key, if munge is installed and no layer has a key.

    With ``keep`` False a missing key is made for this call and not stored. Raises PiimgError when the key
    cannot be stored or read.
    """
    number = base.accounts.get("munge")
    present = {entry.path for entry in plan.entries if entry.partition is Partition.ROOT}
    if (
        number is None
        or _MUNGE_FILE in present
        or not any(package.name == "munge" for package in base.packages)
    ):
        return plan
    key = KeyStore(_state(cluster), keep).random(MUNGE_KEY, _MUNGE_BYTES)
    entry = Entry(
        Partition.ROOT, _MUNGE_FILE, Kind.FILE, "packages", "the package munge", 0o400, number, number,
        content=key, secret=True,
    )  # fmt: skip
    return dataclasses.replace(plan, entries=(*plan.entries, entry))


def _state(cluster: Cluster) -> Path:
    """The cluster's state folder, as workspace.py has it."""
    return cluster.folder / "state" / cluster.name
