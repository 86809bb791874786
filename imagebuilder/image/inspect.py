"""Looking at an image or a card from outside: partitions, release, node, first-boot results."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuilder.base.release import identify
from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4
from imagebuilder.image.partitions import Table, boot_and_root, read_table
from imagebuilder.image.tree import BootTree

IDENTITY = "/piimg.json"
FIRSTBOOT = "/piimg-firstboot.json"
FIRSTBOOT_ON_ROOT = "/var/lib/piimg/firstboot/.summary"
"""The same on the root partition, where the node writes it first: FAT may lose a file when the power goes."""


@dataclass(frozen=True)
class Inspection:
    """What was found. ``identity`` and ``firstboot`` are JSON objects as read: from outside, so untrusted."""

    path: Path
    table: Table
    release: str
    identity: Mapping[str, Any]
    firstboot: Mapping[str, Any]

    def document(self) -> dict[str, object]:
        """The inspection as data."""
        slices = [
            {"number": s.number, "type": f"{s.type:02x}", "start": s.start, "size": s.size}
            for s in self.table.slices
        ]
        return {
            "path": str(self.path),
            "size": self.table.size,
            "disk_id": self.table.disk_id,
            "partitions": slices,
            "release": self.release or None,
            "node": self.identity.get("node"),
            "cluster": self.identity.get("cluster"),
            "manifest_digest": self.identity.get("manifest"),
            "identity": dict(self.identity),
            "firstboot": dict(self.firstboot),
        }


def inspect_image(path: Path) -> Inspection:
    """Look at an image file or a card; only reads, mounts nothing.

    Raises PiimgError when it has no MBR; what else is missing is left empty.
    """
    table = read_table(path)
    try:
        boot, root = boot_and_root(table)
    except PiimgError:
        return Inspection(path, table, "", {}, {})
    tree = BootTree(path, boot.start)
    try:
        info = identify(lambda name: ext4.ext4_file(path, root.start, name), tree.read)
        release = f"{info.release} ({info.pretty})"
    except PiimgError:
        release = ""
    results = read_object(tree, FIRSTBOOT) or _object(
        lambda: ext4.ext4_file(path, root.start, FIRSTBOOT_ON_ROOT)
    )
    return Inspection(path, table, release, read_object(tree, IDENTITY), results)


def read_object(tree: BootTree, path: str) -> Mapping[str, Any]:
    """A JSON object on the boot partition; empty when there is none, or what is there is not one."""
    return _object(lambda: tree.read(path))


def _object(read: Callable[[], bytes | None]) -> Mapping[str, Any]:
    try:
        document = json.loads(read() or b"")
    except (PiimgError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
