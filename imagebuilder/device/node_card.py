"""Whether a card that says it carries a node is that node's card, and holds nothing else.

The file that says so may have been copied with the folder it is in. So the card must be laid out as piimg
writes it, its root partition must be that of the node, and its boot partition must hold no file but those of
node images and of later kernels. What a node itself stored on its root partition goes with it.
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
_LONGEST = 256  # bytes of it
_MOST = 20_000  # paths of a boot partition that are looked at

_LATER = re.compile(
    r"[^/]+\.dtb|overlays/([^/]+\.dtbo|overlay_map\.dtb|hat_map\.dtb|readme)?"
    r"|(kernel|initramfs)[^/]*|vmlinuz[^/]*|initrd[^/]*|start[^/]*\.elf|fixup[^/]*\.dat|bootcode\.bin"
    r"|(config|cmdline)\.txt(\.bak)?|issue\.txt|licence\.broadcom|copying\.linux"
    r"|piimg-firstboot\.json|fsck\d{4}\.rec"
)
"""What an upgrade of the kernel or the firmware, a first boot, or fsck.fat puts there, in lower case."""


def boot_paths(image: Path) -> frozenset[str]:
    """The paths on the boot partition of a node image, in lower case; a folder ends with a slash.

    Raises PiimgError when it has none that can be read.
    """
    return frozenset(_paths(image, boot_and_root(read_table(image))[0]))


def what_is_beside(device: Path, node: str, known: Collection[str]) -> str:
    """Why ``device``, which says it carries ``node``, is not that card or holds more; empty when it does not.

    ``known`` are the paths that node images of the cluster have on their boot partition. Words that go
    behind "it carries …, but". Never raises PiimgError: what cannot be looked at is a reason too.
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
        return "not all of it can be looked at"
    return f"it holds other files too ({shown(paths)})" if paths else ""


def _is_expected(path: str) -> bool:
    return _LATER.fullmatch(path) is not None or is_of_a_system(path)


def _hostname(device: Path, root: Slice) -> str:
    found = ext4.stat(device, root.start, [_HOSTNAME]).get(_HOSTNAME)
    if found is None or found.kind != "regular" or found.size > _LONGEST:
        return ""
    ((_, content),) = ext4.read(device, root.start, {_HOSTNAME: found.size})
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
