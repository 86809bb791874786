"""Loop devices: attached with offset and size limit, so that no partition nodes and no udev are needed.

Attached by ioctl(2), not by losetup(8): in a container's own /dev nobody has made the node of the device that
is free at this moment; and only so does the kernel free a device whose owner was killed.
"""

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
_LOOP_SET_DIRECT_IO = 0x4C08
_LOOP_CONFIGURE = 0x4C0A  # since Linux 5.8
_LOOP_CTL_GET_FREE = 0x4C82
_READ_ONLY, _AUTOCLEAR = 1, 4  # lo_flags
_STATUS64 = struct.Struct("=QQQQQ")  # lo_device, lo_inode, lo_rdevice, lo_offset, lo_sizelimit
# struct loop_config: fd and block_size; struct loop_info64, which is the five above, lo_number, two of
# encryption, lo_flags, lo_file_name and what is not used any more; 64 bytes that are reserved.
_CONFIG = struct.Struct("=II QQQQQ IIII 64s 112x 64x")
_TRIES = 100  # others take the device that was free, too
_DETACH_PATIENCE = 10.0  # seconds
_IN_USE = "losetup --list says which are in use; piimg cleanup frees what a killed run left"


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
    with _opened(device, os.O_RDONLY | os.O_CLOEXEC) as handle:
        raw = fcntl.ioctl(handle, _LOOP_GET_STATUS64, bytes(232))
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
    file: Path,
    *,
    offset: int = 0,
    size: int = 0,
    read_only: bool = False,
    direct_io: bool = False,
    autoclear: bool = False,
) -> Iterator[Path]:
    """Attach ``file`` (``size`` bytes from ``offset``; 0: to its end) and give the loop device's path.

    At the end the device is detached, and waited for until it is free. ``direct_io`` reads and writes
    past the host's page cache, as a card does. With ``autoclear`` the kernel detaches it by itself once it is
    neither open nor mounted: also when this process is killed, and the mount goes with its container.
    Raises PiimgError when there is no loop device to be had.
    """
    info = file.stat()
    wanted = Backing(info.st_dev, info.st_ino, offset)
    flags = (_READ_ONLY if read_only else 0) | (_AUTOCLEAR if autoclear else 0)
    with (
        journal.hold("loop", device=info.st_dev, inode=info.st_ino, offset=offset) as hold,
        contextlib.ExitStack() as kept,
    ):
        device = _attach(file, offset, size, flags, kept)

        def free() -> None:
            kept.close()
            detach(device, wanted)

        with releasing(lambda: hold.free(free)):
            if direct_io:
                _past_the_cache(device, file)
            yield device


def _attach(file: Path, offset: int, size: int, flags: int, kept: contextlib.ExitStack) -> Path:
    """Attach ``file`` to a free device. One that the kernel would free at once stays open in ``kept``."""
    mode = (os.O_RDONLY if flags & _READ_ONLY else os.O_RDWR) | os.O_CLOEXEC
    with _told(file), _opened(file, mode) as source:
        name = os.fsencode(file)[:63]
        config = _CONFIG.pack(source, 0, 0, 0, 0, offset, size, 0, 0, 0, flags, name)
        for _ in range(_TRIES):
            device = _next_free(file)
            try:
                with _opened(device, mode) as handle:
                    fcntl.ioctl(handle, _LOOP_CONFIGURE, config)
                    if flags & _AUTOCLEAR:  # for reading: some kernels mount nothing that is open for writing
                        kept.callback(os.close, os.open(device, os.O_RDONLY | os.O_CLOEXEC))
                return device
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT):  # taken meanwhile, or not made yet
                    raise
    raise PiimgError(f"no loop device for {file.name}: others took each that was free", "try again")


@contextlib.contextmanager
def _opened(path: Path, mode: int) -> Iterator[int]:
    handle = os.open(path, mode)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PiimgError(
            f"no loop device for {file.name}: {error.filename or 'the kernel'}: {error.strerror}",
            "is the loop module there (sudo modprobe loop), and are you root? "
            "A container has to be started with --privileged",
        ) from error


def _next_free(file: Path) -> Path:
    """The next free loop device. Its node is made where nobody else does, as in a container without udev."""
    with _opened(Path("/dev/loop-control"), os.O_RDWR | os.O_CLOEXEC) as control:
        try:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        except OSError as error:
            raise PiimgError(
                f"no loop device for {file.name}: the kernel has none left: {error.strerror}", _IN_USE
            ) from error
    device = Path(f"/dev/loop{number}")
    try:
        os.mknod(device, 0o660 | stat.S_IFBLK, os.makedev(_LOOP_MAJOR, number))
    except FileExistsError:
        pass
    except PermissionError as error:
        raise PiimgError(
            f"no loop device for {file.name}: all that are here are in use, and {device} cannot be made",
            f"{_IN_USE}; a container has to be started with --privileged",
        ) from error
    return device


def _past_the_cache(device: Path, file: Path) -> None:
    with _opened(device, os.O_RDONLY | os.O_CLOEXEC) as handle:
        try:
            fcntl.ioctl(handle, _LOOP_SET_DIRECT_IO, 1)
        except OSError as error:
            raise PiimgError(
                f"{file} cannot be read and written past the cache: {error.strerror}",
                "put it on another file system",
            ) from error


def detach(device: Path, held: Backing) -> None:
    """Detach ``device`` if it is still attached to ``held``, and wait until it is free."""
    deadline = time.monotonic() + _DETACH_PATIENCE
    while _holds(device, held):
        with contextlib.suppress(ToolError):  # it may have gone meanwhile; the loop decides
            run(["losetup", "--detach", device])
        if not _holds(device, held):
            return
        if time.monotonic() > deadline:
            why = _still_mounted(device) or "something still uses it: see lsof"
            raise PiimgError(f"{device} could not be detached", f"{why}, then run piimg cleanup")
        time.sleep(0.05)


def _still_mounted(device: Path) -> str:
    """Where ``device`` is mounted yet, and what ends that; empty when nobody can say.

    A mount namespace that was made while it was mounted has a copy of that mount (mount_namespaces(7)), of
    which lsof says nothing. Columns of mountinfo: proc(5).
    """
    try:
        number = device.stat().st_rdev
    except OSError:
        return ""
    mounted = f"{os.major(number)}:{os.minor(number)}".encode()
    for process in (Path("/proc/self"), *Path("/proc").glob("[0-9]*")):
        try:
            lines = (process / "mountinfo").read_bytes().splitlines()
        except OSError:  # it has ended meanwhile
            continue
        point = next((columns[4] for line in lines if (columns := line.split(b" "))[2] == mounted), None)
        if point is None:
            continue
        if process.name == "self":
            shown = point.decode("ascii", "backslashreplace")
            return f"it is mounted at {shown}: sudo umount {shown}"
        return f"process {process.name} has it mounted in a namespace of its own: end that process"
    return ""


def devices_of(held: Backing) -> list[Path]:
    """The loop devices attached to ``held``."""
    found = (Path("/dev") / entry.name for entry in Path("/sys/block").glob("loop*"))
    return [device for device in found if backing(device) == held]
