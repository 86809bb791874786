"""Free what a killed run left behind: only entries of the journal whose owner has ended."""

import contextlib
import json
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from imagebuilder.errors import PiimgError
from imagebuilder.system import files, journal, loop, mount
from imagebuilder.system.process import ToolError, run

_ORDER = ("mount", "loop", "file", "folder")


def cleanup() -> list[str]:
    """Free every abandoned mount, loop device, folder and unfinished file; return a line for each.

    Raises PiimgError when something could not be freed, after it has freed the rest.
    """
    freed: list[str] = []
    faults: list[str] = []
    with journal.abandoned() as notes:
        known = [(note, facts) for note, facts in notes if facts.get("what") in _ORDER]
        for note, facts in sorted(known, key=lambda item: _ORDER.index(item[1]["what"])):
            try:
                freed += _free(facts, {one for one, _ in notes})
            except _InUse:
                continue
            except PiimgError as error:
                faults.append(error.whole)
                continue
            except OSError as error:
                faults.append(str(error))
                continue
            except (KeyError, TypeError, ValueError):
                faults.append(f"{note}: not a note of piimg: {json.dumps(facts)[:80]}")
                continue
            note.unlink(missing_ok=True)
    if faults:
        raise PiimgError(f"could not free: {faults[0]}", "\n".join(faults[1:]))
    return freed


class _InUse(Exception):
    """A living run uses the same file, such as a base image: the loop devices may be its own."""


def free_leftovers() -> None:
    """Free what a killed run left, before new work begins. Failures are ignored."""
    with contextlib.suppress(PiimgError):  # `piimg cleanup` reports it
        cleanup()


def _free(facts: dict[str, Any], abandoned: Collection[Path]) -> Iterator[str]:
    match facts["what"]:
        case "mount":
            yield from _free_mount(Path(facts["point"]))
        case "loop":
            yield from _free_loops(_backing(facts), abandoned)
        case "file":
            yield from _free_file(Path(facts["path"]), int(facts["device"]), int(facts["inode"]))
        case "folder":
            yield from _free_folder(Path(facts["path"]), int(facts["device"]), int(facts["inode"]))


def _backing(facts: dict[str, Any]) -> loop.Backing:
    return loop.Backing(int(facts["device"]), int(facts["inode"]), int(facts["offset"]))


def _free_mount(point: Path) -> Iterator[str]:
    """Unmount ``point``. Its loop device has a note of its own."""
    if point.parent != journal.folder():
        raise PiimgError(
            f"{point} is not a mount point of piimg", f"unmount it yourself: sudo umount {point}"
        )
    if mount.is_mounted(point):
        try:
            run(["umount", point])
        except ToolError:
            run(["fusermount3", "-u", point])
        yield f"unmounted {point}"
    with contextlib.suppress(FileNotFoundError):
        point.rmdir()


def _free_loops(backing: loop.Backing, abandoned: Collection[Path]) -> Iterator[str]:
    devices = loop.devices_of(backing)
    # Looked for after that: a run writes its note before it attaches a device.
    if devices and any(
        facts.get("what") == "loop" and _backing(facts) == backing for facts in journal.living(abandoned)
    ):
        raise _InUse
    for device in devices:
        loop.detach(device, backing)
        yield f"detached {device}"


def _free_file(path: Path, device: int, inode: int) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        info = path.lstat()
        if (info.st_dev, info.st_ino) == (device, inode):
            path.unlink()
            yield f"removed {path}"
    for folder in files.scratches_of(path):
        shutil.rmtree(folder)
        yield f"removed {folder}"


def _free_folder(path: Path, device: int, inode: int) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        info = path.lstat()
        if (info.st_dev, info.st_ino) == (device, inode):
            shutil.rmtree(path)
            yield f"removed {path}"
