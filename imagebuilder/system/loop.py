"""Loop devices: attached with offset and size limit, so that no partition nodes and no udev are needed."""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system import journal
from imagebuilder.system.held import releasing
from imagebuilder.system.process import ToolError, run

_LOOP_MAJOR = 7  # Documentation/admin-guide/devices.txt
_LOOP_GET_STATUS64 = 0x4C05  # linux/loop.h
_LOOP_CTL_GET_FREE = 0x4C82
_STATUS64 = struct.Struct("=QQQQQ")  # lo_device, lo_inode, lo_rdevice, lo_offset, lo_sizelimit
_DETACH_PATIENCE = 10.0  # seconds


@dataclass(frozen=True)
class Backing:
    """What a loop device is attached to: device and inode of the file, and bytes from its start."""

    device: int
    inode: int
    offset: int


def backing(device: Path) -> Backing | None:
    """What ``device`` is attached to, or None when it is free, gone, or its file cannot be asked."""
    try:
        return _status(device)
    except OSError:
        return None


def _status(device: Path) -> Backing:
    handle = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = fcntl.ioctl(handle, _LOOP_GET_STATUS64, bytes(232))
    finally:
        os.close(handle)
    lo_device, lo_inode, _, lo_offset, _ = _STATUS64.unpack_from(raw)
    return Backing(lo_device, lo_inode, lo_offset)


def _holds(device: Path, held: Backing) -> bool:
    """Whether ``device``, which was attached to ``held``, still is."""
    try:
        return _status(device) == held
    except OSError as error:
        # Free, or gone. Anything else means that its file cannot be asked any more (the server of a FUSE
        # file that died): then the device is still attached, and still ours.
        return error.errno not in (errno.ENXIO, errno.ENOENT, errno.ENODEV)


@contextlib.contextmanager
def attached(
    file: Path, *, offset: int = 0, size: int = 0, read_only: bool = False, direct_io: bool = False
) -> Iterator[Path]:
    """Attach ``file`` (``size`` bytes from ``offset``; 0: to its end) and give the loop device's path.

    At the end the device is detached, and waited for until it is free. ``direct_io`` reads and writes
    past the host's page cache, as a card does. Raises PiimgError when there is no loop device to be had.
    """
    info = file.stat()
    wanted = Backing(info.st_dev, info.st_ino, offset)
    with journal.hold("loop", device=info.st_dev, inode=info.st_ino, offset=offset) as hold:
        options = ["--offset", str(offset), "--sizelimit", str(size)] if offset or size else []
        options += ["--read-only"] if read_only else []
        options += ["--direct-io=on"] if direct_io else []
        device = _attach(file, options)
        with releasing(lambda: hold.free(lambda: detach(device, wanted))):
            yield device


def _attach(file: Path, options: list[str]) -> Path:
    _make_node()
    try:
        done = run(["losetup", "--find", "--show", *options, "--", file])
    except ToolError as error:
        hint = "is the loop module there (sudo modprobe loop), and are you root?"
        raise PiimgError(f"no loop device for {file.name}: {error.message}", hint) from error
    return Path(done.stdout.decode().strip())


def _make_node() -> None:
    """Make the node of the next free loop device where nobody else does, as in a container without udev."""
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # losetup will say what is missing
    try:
        number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    except OSError:
        return
    finally:
        os.close(control)
    with contextlib.suppress(FileExistsError, PermissionError):
        os.mknod(f"/dev/loop{number}", 0o660 | stat.S_IFBLK, os.makedev(_LOOP_MAJOR, number))


def detach(device: Path, held: Backing) -> None:
    """Detach ``device`` if it is still attached to ``held``, and wait until it is free."""
    deadline = time.monotonic() + _DETACH_PATIENCE
    while _holds(device, held):
        with contextlib.suppress(ToolError):  # it may have gone meanwhile; the loop decides
            run(["losetup", "--detach", device])
        if not _holds(device, held):
            return
        if time.monotonic() > deadline:
            raise PiimgError(
                f"{device} could not be detached", "something still uses it: see lsof, then run piimg cleanup"
            )
        time.sleep(0.05)


def devices_of(held: Backing) -> list[Path]:
    """The loop devices attached to ``held``."""
    found = (Path("/dev") / entry.name for entry in Path("/sys/block").glob("loop*"))
    return [device for device in found if backing(device) == held]
