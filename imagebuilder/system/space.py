"""Space on the host's disks: how much is free, and clear errors when a disk is full."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.text import size

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE = 4 << 20  # bytes; a disk with less is full for a program that writes blocks of up to a MiB


def is_full(error: BaseException | None) -> bool:
    """Whether ``error``, or the error that caused it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


def free_space(folder: Path) -> int:
    """Bytes that this process may still write to the disk of ``folder``. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)


def allocated(path: Path) -> int:
    """Bytes of disk that a file takes. Raises OSError."""
    return path.stat().st_blocks * 512


@contextlib.contextmanager
def naming_full_disk(
    folder: Path, doing: str, needs: Callable[[], int], hint: str, taken: Callable[[], int] = lambda: 0
) -> Iterator[None]:
    """Turn an error of the block into one that says that the disk of ``folder`` is full, if it is.

    Programs that write there report this in their own words ("Short write", "Input/output error"). ``needs``
    gives the bytes that the block needs in all, and ``taken`` those that it takes when it fails; temporary
    files of the block may be removed already. ``doing`` is the action for the message, such as "building
    worker1". Another error stays as it is.
    """
    try:
        yield
    except Interrupted:
        raise
    except (PiimgError, OSError) as error:
        try:
            free, needed = free_space(folder), needs()
            had = free + taken()
        except (PiimgError, OSError):
            raise error from None
        if not is_full(error) and free >= _LITTLE and had >= needed:
            raise
        raise PiimgError(
            f"no room on the disk of {folder}: {doing} needs about {size(needed)},"
            f" and {size(had)} were free for it",
            hint,
        ) from error
