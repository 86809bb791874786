"""The node that a card carries, from the identity file on its boot partition. Cards are not trusted."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image import fat
from imagebuilder.image.inspect import IDENTITY, IDENTITY_LIMIT
from imagebuilder.image.partitions import read_table

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # RFC 1123, as in the manifest
_UNFINISHED = re.compile(
    rb"piimg is writing(?: (?P<node>[A-Za-z0-9-]{1,63})(?: of (?P<cluster>[A-Za-z0-9-]{1,63}))?)? here\n"
)


@dataclass(frozen=True)
class Carried:
    """The node that a card carries, and its cluster; both empty for a card that carries none.

    ``manifest`` is the digest of the manifest that the node image was built from, in hex.
    """

    node: str = ""
    cluster: str = ""
    manifest: str = ""

    def named(self, cluster: str = "") -> str:
        """The node, and its cluster unless it is ``cluster``; empty for a card that carries none."""
        return f"{self.node} of {self.cluster}" if self.cluster and self.cluster != cluster else self.node


NOTHING = Carried()


def parse_identity(data: bytes) -> Carried:
    """The identity in ``data``; ``NOTHING`` when it is not an identity file. Pure, and raises nothing."""
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
    manifest = document.get("manifest", "")
    hexadecimal = isinstance(manifest, str) and re.fullmatch(r"[0-9a-f]{64}", manifest)
    return Carried(node, cluster if known else "", manifest if hexadecimal else "")


def unfinished_line(node: str, cluster: str) -> bytes:
    """The first bytes of a card while ``node`` of ``cluster`` (either may be empty) is written.

    They remain when a run is interrupted, and name the node that was being written.
    """
    name = " of ".join(name for name in (node, cluster) if name) if node else ""
    return f"piimg is writing{' ' if name else ''}{name} here\n".encode()


def parse_unfinished(start: bytes) -> Carried | None:
    """The node in the first bytes ``start`` of a card whose writing was interrupted; None for other cards.

    Pure, and raises nothing.
    """
    line = _UNFINISHED.match(start)
    if line is None:
        return None
    names = [(line[part] or b"").decode() for part in ("node", "cluster")]
    return Carried(*(name if _NAME.fullmatch(name) else "" for name in names))


def carried(device: Path) -> Carried:
    """Read which node ``device`` carries; ``NOTHING`` when it is empty, foreign or cannot be read."""
    try:
        start = read_table(device).boot_start
        content = None if start is None else fat.read_file(device, start, IDENTITY, IDENTITY_LIMIT)
    except PiimgError:
        return NOTHING
    return parse_identity(content or b"")
