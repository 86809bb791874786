"""Free space on the disk of the cache: checked before writing, and a clear error when it runs out."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system.space import free_space, is_full
from imagebuilder.text import size

_HINT = "free some space (piimg fetch --prune), or set PIIMG_CACHE to a folder on a larger disk"


def check_room(folder: Path, needed: int, doing: str) -> None:
    """Raise PiimgError unless the disk of ``folder`` has ``needed`` bytes free.

    ``doing`` is the action for the message, such as "unpack os.img.xz".
    """
    free = free_space(folder)
    if needed > free:
        raise PiimgError(
            f"not enough space to {doing}: it needs {size(needed)}, and {size(free)} are free in {folder}",
            _HINT,
        )


@contextlib.contextmanager
def writing(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into a PiimgError; ``doing`` is the action for the message."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise PiimgError(f"the disk is full: cannot {doing}", _HINT) from error
        reason = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        raise PiimgError(
            f"cannot {doing}: {reason}",
            "check that you may write there and that the disk is healthy; PIIMG_CACHE sets another folder",
        ) from error
