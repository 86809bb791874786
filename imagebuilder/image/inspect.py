"""Inspection of an image or a card without mounting it: partitions, release, node, first-boot results."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuilder.base.release import identify
from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.partitions import Table, boot_and_root, read_table

IDENTITY = "/piimg.json"
IDENTITY_LIMIT = 64 << 10  # bytes; piimg writes a few hundred
FIRSTBOOT = "/piimg-firstboot.json"
FIRSTBOOT_LIMIT = 1 << 20  # bytes
FIRSTBOOT_ON_ROOT = "/var/lib/piimg/firstboot/.summary"
"""The same file on the root partition, which the node writes first: FAT may lose a file in a power cut."""


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection. ``identity`` and ``firstboot`` are JSON objects that are not trusted."""

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
    """Inspect an image file or a card. Only reads, and mounts nothing.

    Raises PiimgError when it has no MBR; other missing parts are left empty.
    """
    table = read_table(path)
    try:
        boot, root = boot_and_root(table, with_data=True)
    except PiimgError:
        return Inspection(path, table, "", {}, {})

    def on_root(name: str, limit: int) -> bytes | None:
        return ext4.read_file(path, root.start, name, limit)

    def on_boot(name: str, limit: int) -> bytes | None:
        return fat.read_file(path, boot.start, name, limit)

    try:
        info = identify(on_root, on_boot)
        release = f"{info.release} ({info.pretty})"
    except PiimgError:
        release = ""
    results = _object(lambda: on_boot(FIRSTBOOT, FIRSTBOOT_LIMIT)) or _object(
        lambda: on_root(FIRSTBOOT_ON_ROOT, FIRSTBOOT_LIMIT)
    )
    return Inspection(path, table, release, _object(lambda: on_boot(IDENTITY, IDENTITY_LIMIT)), results)


def _object(read: Callable[[], bytes | None]) -> Mapping[str, Any]:
    """A JSON object; empty if the file is missing, invalid or too large."""
    try:
        document = json.loads(read() or b"")
    except (PiimgError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
