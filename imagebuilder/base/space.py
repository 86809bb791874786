"""Room on the cache's disk: asked for before, and said clearly when it runs out."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import PiimgError

_HINT = "free some room (piimg fetch --prune), or set PIIMG_CACHE to a folder on a larger disk"


def check_room(folder: Path, needed: int, doing: str) -> None:
    """Raise PiimgError unless the disk of ``folder`` has ``needed`` bytes free; ``doing`` says what for."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PiimgError(f"no room to {doing}: it needs {needed} bytes, {free} are free in {folder}", _HINT)


@contextlib.contextmanager
def writing(doing: str) -> Iterator[None]:
    """Turn what the disk says while ``doing`` something into a PiimgError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PiimgError(f"the disk is full: cannot {doing}", _HINT) from error
        said = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        raise PiimgError(
            f"cannot {doing}: {said}",
            "see whether the folder is yours and its disk healthy; PIIMG_CACHE names another",
        ) from error
