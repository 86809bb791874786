"""Loop devices: attached with offset and size limit, so that no partition nodes and no udev are needed.

They are attached by ioctl(2), not by losetup(8): in a container's own /dev the node of a free device may be
missing, and only an open descriptor with autoclear lets the kernel free the device of a killed process.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system import journal
from imagebuilder.system.process import ToolError, run
from imagebuilder.system.releasing import releasing

_log = logging.getLogger(__name__)

_LOOP_MAJOR = 7  # Documentation/admin-guide/devices.txt
_LOOP_GET_STATUS64 = 0x4C05  # linux/loop.h
_LOOP_SET_DIRECT_IO = 0x4C08
_LOOP_CONFIGURE = 0x4C0A  # since Linux 5.8
_LOOP_CTL_GET_FREE = 0x4C82
_READ_ONLY, _AUTOCLEAR = 1, 4  # lo_flags
_STATUS64 = struct.Struct("=QQQQQ")  # lo_device, lo_inode, lo_rdevice, lo_offset, lo_sizelimit
# struct loop_config: fd and block_size; struct loop_info64, which is the five fields above, lo_number, two
# fields of encryption, lo_flags, lo_file_name and obsolete fields; 64 reserved bytes.
_CONFIG = struct.Struct("=II QQQQQ IIII 64s 112x 64x")
_TRIES = 100  # another program may take the free device first
_DETACH_PATIENCE = 10.0  # seconds
_IN_USE = "losetup --list shows those in use; piimg cleanup frees what a killed run left"


@dataclass(frozen=True)
class Backing:
    """The backing of a loop device: device and inode of the file, and the offset in bytes."""

    device: int
    inode: int
    offset: int


def backing(device: Path) -> Backing | None:
    """The backing of ``device``, or None when it is free, gone, or its file does not answer."""
    try:
        return _status(device)
    except OSError:
        return None


def _status(device: Path) -> Backing:
    with _opened(device, os.O_RDONLY | os.O_CLOEXEC) as handle:
        raw = fcntl.ioctl(handle, _LOOP_GET_STATUS64, bytes(232))
    lo_device, lo_inode, _, lo_offset, _ = _STATUS64.unpack_from(raw)
    return Backing(lo_device, lo_inode, lo_offset)


def _is_attached(device: Path, file: Backing) -> bool:
    """Whether ``device`` is still attached to ``file``."""
    try:
        return _status(device) == file
    except OSError as error:
        # These mean free or gone. With any other error the file does not answer (the server of a FUSE file
        # died): the device is still attached to it.
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
    """Attach ``file`` (``size`` bytes from ``offset``; 0: to its end) and yield the loop device's path.

    At the end the device is detached, and the function waits until it is free. With ``direct_io`` reads and
    writes bypass the host's page cache. With ``autoclear`` the kernel detaches the device once it is neither
    open nor mounted, also when this process is killed and its container ends. Raises PiimgError when no loop
    device can be attached.
    """
    info = file.stat()
    wanted = Backing(info.st_dev, info.st_ino, offset)
    flags = (_READ_ONLY if read_only else 0) | (_AUTOCLEAR if autoclear else 0)
    with (
        journal.hold("loop", device=info.st_dev, inode=info.st_ino, offset=offset) as hold,
        contextlib.ExitStack() as stack,
    ):
        device = _attach(file, offset, size, flags, stack)
        _log.debug("%s: attached to %s", file, device)

        def free() -> None:
            stack.close()
            detach(device, wanted)

        with releasing(lambda: hold.free(free)):
            if direct_io:
                _set_direct_io(device, file)
            yield device


def _attach(file: Path, offset: int, size: int, flags: int, stack: contextlib.ExitStack) -> Path:
    """Attach ``file`` to a free device. With autoclear it stays open in ``stack``: else it would be freed."""
    mode = (os.O_RDONLY if flags & _READ_ONLY else os.O_RDWR) | os.O_CLOEXEC
    with _as_piimg_error(file), _opened(file, mode) as source:
        name = os.fsencode(file)[:63]
        config = _CONFIG.pack(source, 0, 0, 0, 0, offset, size, 0, 0, 0, flags, name)
        for _ in range(_TRIES):
            device = _next_free(file)
            try:
                with _opened(device, mode) as handle:
                    fcntl.ioctl(handle, _LOOP_CONFIGURE, config)
                    if flags & _AUTOCLEAR:  # read-only: some kernels do not mount a device open for writing
                        stack.callback(os.close, os.open(device, os.O_RDONLY | os.O_CLOEXEC))
                return device
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT):  # taken by another program, or no node yet
                    raise
    raise PiimgError(f"no loop device for {file.name}: other programs took each free device", "try again")


@contextlib.contextmanager
def _opened(path: Path, mode: int) -> Iterator[int]:
    handle = os.open(path, mode)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _as_piimg_error(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PiimgError(
            f"no loop device for {file.name}: {error.filename or 'the kernel'}: {error.strerror}",
            "load the loop module (sudo modprobe loop), and run piimg with sudo; "
            "start a container with --privileged",
        ) from error


def _next_free(file: Path) -> Path:
    """The next free loop device. Its node is created if missing, as in a container without udev."""
    with _opened(Path("/dev/loop-control"), os.O_RDWR | os.O_CLOEXEC) as control:
        try:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        except OSError as error:
            raise PiimgError(
                f"no loop device for {file.name}: the kernel has no free one: {error.strerror}", _IN_USE
            ) from error
    device = Path(f"/dev/loop{number}")
    try:
        os.mknod(device, 0o660 | stat.S_IFBLK, os.makedev(_LOOP_MAJOR, number))
    except FileExistsError:
        pass
    except PermissionError as error:
        raise PiimgError(
            f"no loop device for {file.name}: all are in use, and {device} cannot be created",
            f"{_IN_USE}; start a container with --privileged",
        ) from error
    return device


def _set_direct_io(device: Path, file: Path) -> None:
    with _opened(device, os.O_RDONLY | os.O_CLOEXEC) as handle:
        try:
            fcntl.ioctl(handle, _LOOP_SET_DIRECT_IO, 1)
        except OSError as error:
            raise PiimgError(
                f"{file} does not support direct I/O: {error.strerror}",
                "move it to another file system",
            ) from error


def detach(device: Path, file: Backing) -> None:
    """Detach ``device`` if it is still attached to ``file``, and wait until it is free."""
    deadline = time.monotonic() + _DETACH_PATIENCE
    while _is_attached(device, file):
        with contextlib.suppress(ToolError):  # it may be free by now, which the loop checks
            run(["losetup", "--detach", device])
        if not _is_attached(device, file):
            return
        if time.monotonic() > deadline:
            why = _still_mounted(device) or "a program still uses it: see lsof"
            raise PiimgError(f"{device} could not be detached", f"{why}, then run piimg cleanup")
        time.sleep(0.05)


def _still_mounted(device: Path) -> str:
    """Where ``device`` is still mounted, and how to end that; empty when no mount is found.

    A mount namespace that was created meanwhile has a copy of the mount (mount_namespaces(7)), which lsof
    does not show. Columns of mountinfo: proc(5).
    """
    try:
        number = device.stat().st_rdev
    except OSError:
        return ""
    mounted = f"{os.major(number)}:{os.minor(number)}".encode()
    for process in (Path("/proc/self"), *Path("/proc").glob("[0-9]*")):
        try:
            lines = (process / "mountinfo").read_bytes().splitlines()
        except OSError:  # the process has ended
            continue
        point = next((columns[4] for line in lines if (columns := line.split(b" "))[2] == mounted), None)
        if point is None:
            continue
        if process.name == "self":
            shown = point.decode("ascii", "backslashreplace")
            return f"it is mounted at {shown}: sudo umount {shown}"
        return f"process {process.name} has it mounted in its own namespace: end that process"
    return ""


def devices_of(file: Backing) -> list[Path]:
    """The loop devices attached to ``file``."""
    devices = (Path("/dev") / entry.name for entry in Path("/sys/block").glob("loop*"))
    return [device for device in devices if backing(device) == file]
