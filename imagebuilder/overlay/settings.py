"""The entries of the manifest's settings whose paths or sections depend on their values.

All other settings are in layers, whose templates read them. These entries come before those of all layers.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from imagebuilder.model import Credentials, Entry, Kind, Node, Partition
from imagebuilder.overlay.layer import USER_ID
from imagebuilder.settings import CA_CERTIFICATES

LAYER = "manifest"
"""The name under which the entries are shown."""


_STICKY = ("/tmp", "/var/tmp")  # folders of the base image with another mode


def entries(node: Node, credentials: Credentials, folder: Path) -> tuple[Entry, ...]:
    """The entries of the settings of ``node``. ``folder`` is that of the manifest, for messages."""
    source = str(folder)
    return (*_config(node, source), *_mounts(node, source), *_ca_certificates(node, credentials, folder))


def _mounts(node: Node, source: str) -> Iterator[Entry]:
    """The lines for fstab, and the folders to mount at."""
    if not node.mounts:
        return
    content = "".join(f"{mount.line}\n" for mount in node.mounts).encode()
    yield Entry(Partition.ROOT, "/etc/fstab", Kind.LINES, LAYER, source, content=content)
    for mount in node.mounts:
        if mount.path not in _STICKY:
            owner = USER_ID if mount.path.startswith("/home/") else 0
            yield Entry(Partition.ROOT, mount.path, Kind.DIRECTORY, LAYER, source, 0o755, owner, owner)


def _ca_certificates(node: Node, credentials: Credentials, folder: Path) -> Iterator[Entry]:
    """One file for each certificate: update-ca-certificates(8) uses its name, not its folder."""
    contents = {
        (PurePosixPath(file).stem, text.encode()): file
        for file in node.ca_certificates
        for text in credentials.ca_certificates[file]
    }
    for (stem, content), file in contents.items():
        name = re.sub(r"[^A-Za-z0-9.-]", "_", stem)[:100]
        path = f"{CA_CERTIFICATES}/piimg-{name}-{hashlib.sha256(content).hexdigest()[:8]}.crt"
        yield Entry(Partition.ROOT, path, Kind.FILE, LAYER, str(folder / file), content=content)


def _config(node: Node, source: str) -> Iterator[Entry]:
    """The lines for config.txt, by filter."""
    for name, lines in node.config.items():
        content = "".join(f"{line}\n" for line in lines).encode()
        yield Entry(
            Partition.BOOT, "/config.txt", Kind.LINES, LAYER, source, content=content, section=f"[{name}]"
        )
