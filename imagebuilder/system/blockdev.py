"""Block devices: what the kernel says of one, opening one for oneself alone, reads and writes past the cache.

The request numbers are those of linux/fs.h. Direct I/O (open(2), O_DIRECT) goes past the page cache; it wants
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
_TABLE_PATIENCE = 3.0  # seconds; whoever has a partition of the old table open may be about to close it
_LOCK_PATIENCE = 5.0  # seconds; udev probes a card that was just put in for a part of one


def size(handle: int) -> int:
    """The size of the open block device, in bytes."""
    return int(struct.unpack("=Q", fcntl.ioctl(handle, _BLKGETSIZE64, bytes(8)))[0])


def sector_size(handle: int) -> int:
    """The logical sector of the open block device, in bytes: the least that one read or write can have."""
    return int(struct.unpack("=i", fcntl.ioctl(handle, _BLKSSZGET, bytes(4)))[0])


def read_only(handle: int) -> bool:
    """Whether the kernel refuses to write to the open block device."""
    return bool(struct.unpack("=i", fcntl.ioctl(handle, _BLKROGET, bytes(4)))[0])


def diskseq(handle: int) -> int | None:
    """The kernel's number of this medium; the next one put in gets another. None before Linux 5.15."""
    try:
        return int(struct.unpack("=Q", fcntl.ioctl(handle, _BLKGETDISKSEQ, bytes(8)))[0])
    except OSError:
        return None


def number(handle: int) -> str:
    """The device number of the open block device, as ``MAJOR:MINOR``."""
    device = os.fstat(handle).st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def flush(handle: int) -> None:
    """Wait until all that was written is on the medium, and drop what is cached of it. Raises OSError."""
    os.fsync(handle)
    # Dropping the cache wants CAP_SYS_ADMIN; the read-back goes past it in any case (O_DIRECT).
    with contextlib.suppress(PermissionError):
        fcntl.ioctl(handle, _BLKFLSBUF)


def hand_over(handle: int) -> None:
    """Have the kernel read the partition table of the open disk, then let go of the lock.

    systemd-udevd reads the table too, when the kernel reports that a disk was closed after writing. But
    the kernel reports that before it lets go of the lock and of O_EXCL (fs/file_table.c, __fput): a udevd
    that is quicker finds the disk locked, and leaves the table as it was (udevd.c, synthesize_change).
    Raises OSError: EBUSY when somebody has a partition open, EINVAL for a disk without partitions, as a
    loop device without --partscan is, and EACCES without CAP_SYS_ADMIN. The lock is let go of then too.
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
    """Another descriptor of the open device, found by the descriptor and not by a name: past the page cache.

    With ``write`` nothing is to be written by it: udev reads a disk anew once it is closed that was open for
    writing. Raises OSError.
    """
    mode = os.O_WRONLY | os.O_NONBLOCK if write else os.O_RDONLY | os.O_DIRECT
    return os.open(f"/proc/self/fd/{handle}", mode | os.O_CLOEXEC)


def notice_medium(path: Path) -> None:
    """Make the kernel look whether the medium was changed, as it does when a device is opened."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def buffer(length: int) -> memoryview:
    """A page-aligned buffer of ``length`` bytes, fit for direct I/O; freed with the last look at it.

    In huge pages where the kernel has them: direct I/O pins each page, and that is most of what it costs. Not
    given to a child: a fork in the middle of a read may lead it astray (open(2), under O_DIRECT).
    """
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


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
    """Open a whole disk for oneself alone and for direct I/O.

    O_EXCL makes the kernel refuse when a file system, swap, device mapper, md or another exclusive opener
    holds the disk or a partition of it, and keeps them away until the end; flock keeps udev from probing
    meanwhile (systemd, "Locking Block Device Access"). Who may not open it has udisks2 do so, where there is
    one. Raises PiimgError saying what is in the way.
    """
    mode = os.O_RDWR if write else os.O_RDONLY
    try:
        # No O_NONBLOCK: with it an empty reader opens too. O_NOFOLLOW: a link may change after the look.
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
    """Open a device, by udisks2 where this user may not. Raises OSError: PermissionError without udisks2."""
    try:
        return os.open(device, flags)
    except PermissionError as denied:
        from imagebuilder.system import udisks  # few need it, and it takes a while to load

        try:
            return udisks.open_device(device, flags)
        except OSError as error:
            raise denied if error.errno == errno.ENOSYS else error from denied


def may_open(device: Path, *, write: bool) -> bool:
    """Whether this user may open ``device``, or has a udisks2 that can be asked to. It is not asked yet."""
    if os.access(device, os.R_OK | os.W_OK if write else os.R_OK):
        return True
    from imagebuilder.system import udisks

    return udisks.knows(device)


def _lock(device: Path, handle: int) -> None:
    """Lock the device. Whoever holds a lock on it has a few seconds to let go; PiimgError then."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _busy(device, os.fstat(handle).st_rdev) from None
        time.sleep(0.1)


def _refused(device: Path, error: OSError) -> PiimgError:
    """The error for a disk that could not be opened."""
    if error.errno == errno.EBUSY:
        with contextlib.suppress(OSError):
            return _busy(device, device.stat().st_rdev)
    known = {
        errno.EBUSY: ("is in use", "unmount it, or close the program that uses it"),
        errno.EROFS: ("is write-protected", "look at the slider on the card or its adapter"),
        errno.EACCES: ("may not be opened by this user", "run piimg with sudo"),
        errno.EPERM: ("may not be opened by this user", "run piimg with sudo"),
        errno.ENOMEDIUM: ("has no medium in it", "put a card in"),
        errno.ENOENT: ("is gone", "put the card in again, then look with: piimg cards"),
        errno.ENXIO: ("is gone", "put the card in again, then look with: piimg cards"),
        errno.ELOOP: ("is a symbolic link now", "see the cards present with: piimg cards"),
        errno.EINVAL: (
            "cannot be read past the page cache (no O_DIRECT)",
            "what is written there could not be verified; use another reader",
        ),
    }
    said, hint = known.get(error.errno or 0, (f"cannot be opened: {error.strerror}", "try another reader"))
    return DeviceError(device, said, hint)


def _busy(device: Path, rdev: int) -> PiimgError:
    found = dict.fromkeys(str(one) for one in openers.openers() if one.rdev == rdev)
    by = f" by {', '.join(found)}" if found else ""
    return DeviceError(device, f"is in use{by}", "unmount it, or close the program that uses it")
