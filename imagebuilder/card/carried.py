"""Which node a card carries: the identity file on its boot partition. A card may come from anywhere."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image.inspect import IDENTITY
from imagebuilder.image.partitions import FAT_TYPES, read_table
from imagebuilder.system.process import ToolError, run

_LARGEST = 64 << 10  # bytes; ours has a few hundred
_PATIENCE = 10  # seconds; a dying card can keep a read waiting for minutes
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # RFC 1123, as the manifest wants it


@dataclass(frozen=True)
class Carried:
    """The node a card carries, and the cluster it belongs to; both empty for a card that carries none."""

    node: str = ""
    cluster: str = ""


NOTHING = Carried()


def parse_identity(data: bytes) -> Carried:
    """The identity in ``data``; ``NOTHING`` when it is no such file. Pure, and raises nothing."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return NOTHING
    if not isinstance(document, dict):
        return NOTHING
    node, cluster = document.get("node"), document.get("cluster", "")
    if not isinstance(node, str) or not _NAME.fullmatch(node):
        return NOTHING
    known = isinstance(cluster, str) and _NAME.fullmatch(cluster)
    return Carried(node, cluster if known else "")


def carried(device: Path) -> Carried:
    """Read what ``device`` carries; ``NOTHING`` when it is empty, foreign or cannot be read."""
    try:
        boot = next(one for one in read_table(device).slices if one.type in FAT_TYPES)
        return parse_identity(_read(device, boot.start))
    except (PiimgError, StopIteration):
        return NOTHING


def _read(device: Path, offset: int) -> bytes:
    """The identity file of the FAT file system at byte ``offset``, by mtools, limited in size and time."""
    with tempfile.TemporaryDirectory(prefix="piimg-") as folder:
        target = Path(folder) / "identity"
        limits = ["timeout", str(_PATIENCE), "prlimit", f"--fsize={_LARGEST}", "--core=0"]
        try:
            run(
                [*limits, "mcopy", "-n", "-i", f"{device}@@{offset}", f"::{IDENTITY}", target],
                env={"MTOOLSRC": "/dev/null"},
            )
            return target.read_bytes()
        except (ToolError, OSError):
            return b""
