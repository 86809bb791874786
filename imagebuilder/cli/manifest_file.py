"""Which manifest a command is about."""

import os
from typing import TYPE_CHECKING

from imagebuilder.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_DEFAULTS = ("cluster.toml", "manifests/picluster.toml")


def manifest_file(chosen: "Path | None") -> "Path":
    """``chosen`` (--manifest), else $PIIMG_MANIFEST, else cluster.toml in this folder.

    Raises UsageError when none is named and none is there.
    """
    from pathlib import Path

    given = os.environ.get("PIIMG_MANIFEST")
    named = chosen or (Path(given) if given else None)
    if named is not None:
        return named
    for name in _DEFAULTS:
        if Path(name).exists():
            return Path(name)
    raise UsageError(
        "there is no cluster manifest (cluster.toml) in this folder",
        "name one with --manifest FILE, or create a cluster folder with: piimg init DIR",
    )
