"""The slots as they stand on the bench: by hub, and in the order of its ports. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_PORT = re.compile(r"(?P<hub>.*\d)[.-](?P<port>\d+)")  # usb 1-1.4: port 4 of what is at port 1 of bus 1


def hubs(tiles: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tiles, which are in natural order, by hub: ``name``, and ``tiles`` with the ``port`` of each.

    Slots that are at no hub, such as a built-in one, come under an empty name.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for tile in tiles:
        match = _PORT.fullmatch(str(tile["slot"]))
        name, port = (match["hub"], match["port"]) if match else ("", "")
        found.setdefault(name, []).append({**tile, "port": port})
    return [{"name": name, "tiles": inside} for name, inside in found.items()]
