"""Block devices: their properties, exclusive opening, and direct I/O.

The request numbers are those of linux/fs.h. Direct I/O (open(2), O_DIRECT) bypasses the page cache. It needs
offsets, lengths and addresses that are multiples of the logical sector, so buffers come from ``buffer``.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import DeviceError, PiimgError
from imagebuilder.system import openers

_BLKROGET = 0x125E
_BLKRRPART = 0x125F
_BLKFLSBUF = 0x1261
_BLKSSZGET = 0x1268
_BLKGETSIZE64 = 0x80081272
_BLKGETDISKSEQ = 0x80081280  # since Linux 5.15
_TABLE_PATIENCE = 3.0  # seconds; a program that has a partition open, such as udev, may close it soon
_LOCK_PATIENCE = 5.0  # seconds; udev probes a card that was just inserted for less than one second


def size(handle: int) -> int:
    """The size of the open block device, in bytes."""
    return int(struct.unpack("=Q", fcntl.ioctl(handle, _BLKGETSIZE64, bytes(8)))[0])


def sector_size(handle: int) -> int:
    """The logical sector size of the open block device, in bytes: the smallest unit of reads and writes."""
    return int(struct.unpack("=i", fcntl.ioctl(handle, _BLKSSZGET, bytes(4)))[0])


def read_only(handle: int) -> bool:
    """Whether the kernel refuses to write to the open block device."""
    return bool(struct.unpack("=i", fcntl.ioctl(handle, _BLKROGET, bytes(4)))[0])


def diskseq(handle: int) -> int | None:
    """The kernel's sequence number of the medium, new for each inserted medium. None before Linux 5.15."""
    try:
        return int(struct.unpack("=Q", fcntl.ioctl(handle, _BLKGETDISKSEQ, bytes(8)))[0])
    except OSError:
        return None


def number(handle: int) -> str:
    """The device number of the open block device, as ``MAJOR:MINOR``."""
    device = os.fstat(handle).st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def flush(handle: int) -> None:
    """Wait until all written data is on the medium, and drop its page cache. Raises OSError."""
    os.fsync(handle)
    # Dropping the cache needs CAP_SYS_ADMIN; the read-back bypasses the cache in any case (O_DIRECT).
    with contextlib.suppress(PermissionError):
        fcntl.ioctl(handle, _BLKFLSBUF)


def hand_over(handle: int) -> None:
    """Make the kernel read the partition table of the open disk, then release the lock.

    systemd-udevd reads the table, too, when the kernel reports that a disk was closed after writing. But the
    kernel reports that before it releases the lock and O_EXCL (fs/file_table.c, __fput): a fast udevd finds
    the disk locked, and does not read the table (udevd.c, synthesize_change). Raises OSError: EBUSY when
    another program has a partition open, EINVAL for a disk without partitions, such as a loop device without
    --partscan, and EACCES without CAP_SYS_ADMIN. The lock is released in any case.
    """
    deadline = time.monotonic() + _TABLE_PATIENCE
    try:
        while True:
            try:
                fcntl.ioctl(handle, _BLKRRPART)
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                    raise
            time.sleep(0.1)
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


def opened_again(handle: int, *, write: bool) -> int:
    """Another descriptor of the open device, opened by its descriptor and not by its name, for direct I/O.

    With ``write`` it is open for writing, but must not be written to: when it is closed, udev reads the disk
    again. Raises OSError.
    """
    mode = os.O_WRONLY | os.O_NONBLOCK if write else os.O_RDONLY | os.O_DIRECT
    return os.open(f"/proc/self/fd/{handle}", mode | os.O_CLOEXEC)


def notice_medium(path: Path) -> None:
    """Open the device for a moment, which makes the kernel check whether the medium was changed."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def buffer(length: int) -> memoryview:
    """A page-aligned buffer of ``length`` bytes for direct I/O, freed with the last reference to it.

    It uses huge pages where the kernel has them, because pinning each page is most of the cost of direct I/O.
    Children do not inherit it: a fork during a read may corrupt the data (open(2), under O_DIRECT).
    """
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def buffers(count: int, length: int) -> list[memoryview]:
    """Buffers of ``length`` bytes each for direct I/O, in one block of memory: they share huge pages."""
    memory = buffer(count * length)
    return [memory[at : at + length] for at in range(0, len(memory), length)]


def write_at(handle: int, data: memoryview, position: int) -> None:
    """Write all of ``data`` at byte ``position``. Raises OSError."""
    while data:
        written = os.pwrite(handle, data, position)
        data, position = data[written:], position + written


def read_at(handle: int, into: memoryview, position: int) -> None:
    """Fill ``into`` from byte ``position``. Raises OSError, also when the device ends before."""
    while into:
        count = os.preadv(handle, [into], position)
        if count == 0:
            raise OSError(errno.EIO, "the device ends here")
        into, position = into[count:], position + count


@contextlib.contextmanager
def opened(device: Path, *, write: bool) -> Iterator[int]:
    """Open a whole disk exclusively and for direct I/O.

    With O_EXCL the kernel refuses when a file system, swap, device mapper, md or another exclusive opener
    uses the disk or a partition of it, and refuses them until the end of the block. flock keeps udev from
    probing the disk (systemd, "Locking Block Device Access"). A user without the rights opens it by udisks2,
    where that runs. Raises PiimgError with the reason.
    """
    mode = os.O_RDWR if write else os.O_RDONLY
    try:
        # No O_NONBLOCK: with it an empty reader opens, too. O_NOFOLLOW: a link may change after the check.
        handle = _opened(device, mode | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise _refused(device, error) from error
    try:
        if not stat.S_ISBLK(os.fstat(handle).st_mode):
            raise DeviceError(device, "is not a block device", "see the cards present with: piimg cards")
        _lock(device, handle)
        yield handle
    finally:
        os.close(handle)


def _opened(device: Path, flags: int) -> int:
    """Open a device, by udisks2 if this user may not. Raises OSError: PermissionError without udisks2."""
    try:
        return os.open(device, flags)
    except PermissionError as denied:
        from imagebuilder.system import udisks  # rarely needed, and slow to load

        try:
            return udisks.open_device(device, flags)
        except OSError as error:
            raise denied if error.errno == errno.ENOSYS else error from denied


def may_open(device: Path, *, write: bool) -> bool:
    """Whether this user may open ``device``, or udisks2 runs and might. No authorization is requested."""
    if os.access(device, os.R_OK | os.W_OK if write else os.R_OK):
        return True
    from imagebuilder.system import udisks

    return udisks.knows(device)


def _lock(device: Path, handle: int) -> None:
    """Lock the device. Raises PiimgError when another program keeps it locked for a few seconds."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _busy(device, os.fstat(handle).st_rdev) from None
        time.sleep(0.1)


def rights_hint(path: Path, error: OSError, otherwise: str) -> str:
    """The hint for an error at a device: to use sudo, if rights are missing; else ``otherwise``."""
    return (
        "run piimg with sudo" if isinstance(error, PermissionError) and path.is_block_device() else otherwise
    )


def _refused(device: Path, error: OSError) -> PiimgError:
    """The error for a disk that could not be opened."""
    if error.errno == errno.EBUSY:
        with contextlib.suppress(OSError):
            return _busy(device, device.stat().st_rdev)
    known = {
        errno.EBUSY: ("is in use", "unmount it, or close the program that uses it"),
        errno.EROFS: ("is write-protected", "check the lock switch on the card or its adapter"),
        errno.EACCES: ("may not be opened by this user", "run piimg with sudo"),
        errno.EPERM: ("may not be opened by this user", "run piimg with sudo"),
        errno.ENOMEDIUM: ("contains no medium", "insert a card"),
        errno.ENOENT: ("is gone", "insert the card again, then see the cards present with: piimg cards"),
        errno.ENXIO: ("is gone", "insert the card again, then see the cards present with: piimg cards"),
        errno.ELOOP: ("is a symbolic link now", "see the cards present with: piimg cards"),
        errno.EINVAL: (
            "does not support direct I/O (O_DIRECT)",
            "without it written data could not be verified; use another reader",
        ),
    }
    message, hint = known.get(error.errno or 0, (f"cannot be opened: {error.strerror}", "try another reader"))
    return DeviceError(device, message, hint)


def _busy(device: Path, rdev: int) -> PiimgError:
    users = dict.fromkeys(str(opener) for opener in openers.openers() if opener.rdev == rdev)
    by = f" by {', '.join(users)}" if users else ""
    return DeviceError(device, f"is in use{by}", "unmount it, or close the program that uses it")
