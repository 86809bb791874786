"""Check that a card with the identity file of a node is that node's card, and contains no other data.

The identity file may have been copied together with its folder. So the card must have the partitions that
piimg creates, its root partition must belong to the node, and its boot partition must contain only files of
node images and of later kernels. Data that the node stored on its root partition may be erased with it.
"""

import re
from collections.abc import Collection
from pathlib import Path

from imagebuilder.device.existing import PATIENCE, is_of_a_system, shown
from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4
from imagebuilder.image.filesystem import file_system, walk
from imagebuilder.image.partitions import Slice, boot_and_root, read_table
from imagebuilder.image.untrusted import InvalidFormat, raw_reader

_HOSTNAME = "/etc/hostname"
_LONGEST = 256  # bytes; the largest accepted hostname file
_MOST = 20_000  # paths; the most that are read from a boot partition

_LATER = re.compile(
    r"[^/]+\.dtb|overlays/([^/]+\.dtbo|overlay_map\.dtb|hat_map\.dtb|readme)?"
    r"|(kernel|initramfs)[^/]*|vmlinuz[^/]*|initrd[^/]*|start[^/]*\.elf|fixup[^/]*\.dat|bootcode\.bin"
    r"|(config|cmdline)\.txt(\.bak)?|issue\.txt|licence\.broadcom|copying\.linux"
    r"|piimg-firstboot\.json|fsck\d{4}\.rec"
)
"""Files that kernel and firmware upgrades, a first boot, or fsck.fat create there, in lower case."""


def boot_paths(image: Path) -> frozenset[str]:
    """The paths on the boot partition of a node image, in lower case; a folder ends with a slash.

    Raises PiimgError when it has no readable boot partition.
    """
    return frozenset(_paths(image, boot_and_root(read_table(image))[0]))


def foreign_content(device: Path, node: str, known: Collection[str]) -> str:
    """Why ``device`` is not the card of ``node``, or contains other data; empty when neither is so.

    ``device`` has the identity file of ``node``. ``known`` are the paths that node images of the cluster have
    on their boot partition. The text continues "it says that it carries …, but". Never raises PiimgError: a
    card that cannot be read completely is a reason too.
    """
    try:
        boot, root = boot_and_root(read_table(device))
    except PiimgError:
        return "its partitions are not those of a node's card"
    try:
        if _hostname(device, root) != node:
            return f"its root partition is not that of {node}"
        paths = [path for path in _paths(device, boot) if not (path in known or _is_expected(path))]
    except PiimgError:
        return "it cannot be read completely"
    return f"it holds other files too ({shown(paths)})" if paths else ""


def _is_expected(path: str) -> bool:
    return _LATER.fullmatch(path) is not None or is_of_a_system(path)


def _hostname(device: Path, root: Slice) -> str:
    status = ext4.stat(device, root.start, [_HOSTNAME]).get(_HOSTNAME)
    if status is None or status.kind != "regular" or status.size > _LONGEST:
        return ""
    ((_, content),) = ext4.read(device, root.start, {_HOSTNAME: status.size})
    return content.decode("utf-8", "replace").strip()


def _paths(device: Path, boot: Slice) -> list[str]:
    with raw_reader(device, PATIENCE) as card:
        system = file_system(card, boot.start, boot.size)
        if system is None:
            raise InvalidFormat(device, "it has no boot partition")
        paths = []
        for path, _ in walk(system, lambda folder: True):
            paths.append(path.lower())
            if len(paths) > _MOST:
                raise InvalidFormat(device, "it has too many files on its boot partition")
        return paths
