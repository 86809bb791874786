"""What libblkid knows of a card: signatures of file systems, RAID, encryption, partition tables, swap.

blkid(8) and wipefs(8) are asked, which are in util-linux. The card may be hostile, so they are bounded.
"""

import json
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image.partitions import SECTOR
from imagebuilder.image.untrusted import tool_output
from imagebuilder.system.process import locate

_PATIENCE = 20.0  # seconds
_LIMIT = 1 << 20  # bytes that are said


def at(card: Path, offset: int, size: int) -> tuple[str, str]:
    """The type and the usage of what begins at ``offset`` of a card and has at most ``size`` bytes.

    In libblkid's words, as "ext4" and "filesystem", "linux_raid_member" and "raid". Both are empty where it
    finds nothing, or more than one thing, and where there is no blkid. Never raises PiimgError.
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
    """Every signature on a whole card: where it is, in bytes, and its type. Empty without wipefs.

    A partition table in the first sector is none. Raises PiimgError when the card cannot be looked through.
    """
    if locate("wipefs") is None:
        return []
    try:
        said = tool_output(["wipefs", "--no-act", "--json", "{}"], card, _LIMIT, _PATIENCE)
        found = json.loads(said)["signatures"] if said.strip() else []
        places = [(int(one["offset"], 16), _word(one["type"])) for one in found]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PiimgError(f"wipefs says of {card} what cannot be understood", "a newer util-linux?") from error
    return sorted(place for place in places if place[1] != "dos" or place[0] >= SECTOR)


def _word(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter in "_-.")[:40]
