"""Signatures on a card, by libblkid: file systems, RAID, encryption, partition tables, swap.

It runs blkid(8) and wipefs(8) of util-linux, bounded, because the card may be hostile.
"""

import json
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image.partitions import SECTOR
from imagebuilder.image.untrusted import tool_output
from imagebuilder.system.process import locate

_PATIENCE = 20.0  # seconds
_LIMIT = 1 << 20  # bytes of output


def at(card: Path, offset: int, size: int) -> tuple[str, str]:
    """The type and the usage of the signature in the ``size`` bytes at ``offset`` of a card.

    They are libblkid's words, such as "ext4" and "filesystem", "linux_raid_member" and "raid". Both are empty
    if it finds no signature or several, and if blkid is not installed. Never raises PiimgError.
    """
    if locate("blkid") is None:
        return "", ""
    argv = ["blkid", "--probe", "--output", "export", f"--offset={offset}", f"--size={size}", "{}"]
    try:
        said = tool_output(argv, card, _LIMIT, _PATIENCE)
    except PiimgError:
        return "", ""
    fields = dict(line.partition("=")[::2] for line in said.decode("utf-8", "replace").splitlines())
    return _word(fields.get("TYPE", "")), _word(fields.get("USAGE", ""))


def everywhere(card: Path) -> list[tuple[int, str]]:
    """All signatures on a card: position in bytes, and type. Empty if wipefs is not installed.

    A partition table in the first sector is ignored. Raises PiimgError when the card cannot be read.
    """
    if locate("wipefs") is None:
        return []
    try:
        said = tool_output(["wipefs", "--no-act", "--json", "{}"], card, _LIMIT, _PATIENCE)
        found = json.loads(said)["signatures"] if said.strip() else []
        places = [(int(signature["offset"], 16), _word(signature["type"])) for signature in found]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PiimgError(
            f"the output of wipefs about {card} is not valid", "check the version of util-linux: wipefs -V"
        ) from error
    return sorted(place for place in places if place[1] != "dos" or place[0] >= SECTOR)


def _word(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter in "_-.")[:40]
