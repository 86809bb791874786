"""The entries of the manifest's settings whose paths or sections depend on their values.

All other settings are in layers, whose templates read them. These entries come before those of all layers.
"""

from collections.abc import Iterator
from pathlib import Path

from imagebuilder.model import Entry, Kind, Node, Partition

LAYER = "manifest"
"""The name under which the entries are shown."""


def entries(node: Node, folder: Path) -> tuple[Entry, ...]:
    """The entries of the settings of ``node``. ``folder`` is that of the manifest, for messages."""
    return tuple(_config(node, str(folder)))


def _config(node: Node, source: str) -> Iterator[Entry]:
    """The lines for config.txt, by filter."""
    for name, lines in node.config.items():
        content = "".join(f"{line}\n" for line in lines).encode()
        yield Entry(
            Partition.BOOT, "/config.txt", Kind.LINES, LAYER, source, content=content, section=f"[{name}]"
        )
