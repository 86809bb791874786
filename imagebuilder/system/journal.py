"""The journal of what is held on this host: loop devices, mounts, folders, unfinished files.

Every hold is one small file, locked for as long as its owner lives. A run that was killed leaves its
files behind unlocked; `piimg cleanup` frees what they name, and only that: a loop device is known by the
device and inode of its backing file, a mount by its mount point and the loop device beneath it.
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuilder.errors import PiimgError

_NEWBORN = 60.0  # seconds; an empty note this young may be about to be locked and written


def folder() -> Path:
    """Where the journal lies: /run/piimg for root, else the user's runtime folder. Made if missing (0700)."""
    if os.geteuid() == 0:
        path = Path("/run/piimg")
    else:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        path = Path(runtime) / "piimg" if runtime else Path(tempfile.gettempdir()) / f"piimg-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        owner = path.lstat()
    except OSError as error:
        raise PiimgError(f"cannot use {path}: {error.strerror}", "piimg keeps there what it holds") from error
    if owner.st_uid != os.geteuid() or path.is_symlink():
        raise PiimgError(f"{path} belongs to somebody else", "remove it, or set XDG_RUNTIME_DIR")
    return path


@dataclass
class Hold:
    """Something held, and its ``note`` in the journal, which stays for as long as it is not ``freed``."""

    note: Path
    freed: bool = True

    def free(self, release: Callable[[], None]) -> None:
        """Call ``release``; when it fails, `piimg cleanup` still knows what is to be freed."""
        self.freed = False
        release()
        self.freed = True


@contextlib.contextmanager
def hold(what: str, **facts: object) -> Iterator[Hold]:
    """Note that ``what`` ("loop", "mount", "file", "folder") is held, or about to be, until the block ends.

    The note outlives the block only when what frees the thing, called through ``Hold.free``, failed.
    """
    handle, name = tempfile.mkstemp(prefix=f"{what}-", suffix=".json", dir=folder())
    held = Hold(Path(name))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, json.dumps({"what": what, "pid": os.getpid(), **facts}).encode())
        yield held
    finally:
        if held.freed:
            held.note.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def abandoned() -> Iterator[list[tuple[Path, dict[str, Any]]]]:
    """The notes whose owners are gone, locked while the block runs, as (file, facts).

    A note that a kill left empty or torn names nothing and is removed.
    """
    with contextlib.ExitStack() as locks:
        found: list[tuple[Path, dict[str, Any]]] = []
        for note in sorted(folder().glob("*.json")):
            try:
                handle = os.open(note, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            locks.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its owner lives
            try:
                facts = json.loads(note.read_bytes())
            except (OSError, ValueError):
                facts = None
            if isinstance(facts, dict):
                found.append((note, facts))
            elif time.time() - os.fstat(handle).st_mtime > _NEWBORN:
                note.unlink(missing_ok=True)
        yield found
