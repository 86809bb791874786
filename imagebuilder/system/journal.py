"""The journal of resources in use on this host: loop devices, mounts, folders, unfinished files.

Each resource has a note, a small file that is locked while its owner runs. A killed run leaves its notes
behind unlocked; `piimg cleanup` frees only the resources in them. A loop device is identified by the device
and inode of its backing file, a mount by its mount point and its loop device.
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuilder.errors import PiimgError

_NEWBORN = 60.0  # seconds; a younger empty note may not be locked and written yet


def folder() -> Path:
    """The journal's folder: /run/piimg for root, else in the user's runtime folder; created with 0700."""
    if os.geteuid() == 0:
        path = Path("/run/piimg")
    else:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        path = Path(runtime) / "piimg" if runtime else Path(tempfile.gettempdir()) / f"piimg-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        owner = path.lstat()
    except OSError as error:
        raise PiimgError(f"cannot use {path}: {error.strerror}", "piimg keeps its journal there") from error
    if owner.st_uid != os.geteuid() or path.is_symlink():
        raise PiimgError(f"{path} belongs to another user", "remove it, or set XDG_RUNTIME_DIR")
    return path


@dataclass
class Hold:
    """A resource in use, and its ``note`` in the journal, which stays until the resource is ``freed``."""

    note: Path
    freed: bool = True

    def free(self, release: Callable[[], None]) -> None:
        """Call ``release``; when it fails, the note stays for `piimg cleanup`."""
        self.freed = False
        release()
        self.freed = True


@contextlib.contextmanager
def hold(what: str, **facts: object) -> Iterator[Hold]:
    """Write a note of a resource ("loop", "mount", "file", "folder") that is used during the block.

    The note outlives the block only when the release, called through ``Hold.free``, failed.
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


def living(abandoned_ones: Collection[Path]) -> Iterator[dict[str, Any]]:
    """The facts of each note whose owner still runs, besides those that this process found abandoned."""
    for note in set(folder().glob("*.json")) - set(abandoned_ones):
        try:
            handle = os.open(note, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(OSError, ValueError):
                yield json.loads(note.read_bytes())
        finally:
            os.close(handle)


@contextlib.contextmanager
def folder_for_a_while(parent: Path, prefix: str) -> Iterator[Path]:
    """A new private folder PREFIX….partial in ``parent`` during the block, with a note in the journal."""
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=".partial", dir=parent) as name:
        info = Path(name).stat()
        with hold("folder", path=name, device=info.st_dev, inode=info.st_ino):
            yield Path(name)


@contextlib.contextmanager
def abandoned() -> Iterator[list[tuple[Path, dict[str, Any]]]]:
    """The notes whose owners have ended, locked during the block, as (file, facts).

    An empty or incomplete note of a killed run is removed.
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
                continue  # its owner still runs
            try:
                facts = json.loads(note.read_bytes())
            except (OSError, ValueError):
                facts = None
            if isinstance(facts, dict):
                found.append((note, facts))
            elif time.time() - os.fstat(handle).st_mtime > _NEWBORN:
                note.unlink(missing_ok=True)
        yield found
