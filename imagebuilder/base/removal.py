"""Removing files of the cache, with the disk space that becomes free."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import PiimgError

NOT_YOURS = "check that the cache belongs to you (PIIMG_CACHE sets another folder)"


def remove(path: Path) -> int:
    """Remove a file; the bytes of disk that it used."""
    try:
        taken = path.lstat().st_blocks * 512
        path.unlink()
    except FileNotFoundError:  # finished and renamed by another run
        return 0
    except OSError as error:
        raise PiimgError(f"cannot remove {path}: {error.strerror}", NOT_YOURS) from error
    return taken


def sizes(path: Path) -> Iterator[int]:
    """The bytes of disk of each file at or below ``path``; links are not followed."""
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                taken = Path(folder, name).lstat().st_blocks * 512
            except FileNotFoundError:  # finished and renamed by another run
                continue
            yield taken


def remove_whole(path: Path, *, retire: bool = False) -> list[int]:
    """Remove a file or a whole folder; the bytes of disk that each file used.

    ``retire``: rename the folder first, so that a kill never leaves an incomplete folder under its name.
    """
    if not path.is_dir() or path.is_symlink():
        return [remove(path)]
    taken = list(sizes(path))
    try:
        if retire and not path.name.endswith(".partial"):
            path = path.rename(path.with_name(f".{path.name}.partial"))
        shutil.rmtree(path)
    except OSError as error:
        raise PiimgError(f"cannot remove {path}: {error.strerror}", NOT_YOURS) from error
    return taken
