"""Mounting a root partition: by the kernel through a loop device, or by fuse2fs where there is no root."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system import journal, loop
from imagebuilder.system.held import releasing
from imagebuilder.system.process import ToolError, failure, run

_UMOUNT_PATIENCE = 10.0  # seconds
# noinit_itable: no background thread that goes on writing inode tables into the image.
_OPTIONS = "nosuid,nodev,noexec,noatime,noinit_itable"


@contextlib.contextmanager
def ext4(image: Path, offset: int, size: int, *, read_only: bool = False) -> Iterator[Path]:
    """Mount the ext4 file system at ``offset`` (``size`` bytes) of ``image`` and give the mount point.

    Nothing in it can run, open a device, or become setuid through the mount. At the end it is synced and
    unmounted, never lazily: a failed umount is an error. With ``read_only`` nothing is written, not even a
    journal replayed. Raises PiimgError when it cannot be mounted.
    """
    with contextlib.ExitStack() as stack:
        info = image.stat()
        point = Path(stack.enter_context(_mount_point()))
        hold = stack.enter_context(
            journal.hold("mount", point=str(point), device=info.st_dev, inode=info.st_ino, offset=offset)
        )
        if os.geteuid() == 0:
            device = stack.enter_context(
                loop.attached(image, offset=offset, size=size, read_only=read_only, autoclear=True)
            )
            options = f"{_OPTIONS},ro,noload" if read_only else _OPTIONS
            enter: list[str | Path] = ["mount", "-t", "ext4", "-o", options, device, point]
            leave: list[str | Path] = ["umount", point]
        else:
            # fuse2fs of e2fsprogs 1.47: "fakeroot" leaves the checking of permissions to nobody.
            options = f"fakeroot,offset={offset}" + (",ro" if read_only else "")
            enter = ["fuse2fs", "-o", options, image, point]
            leave = ["fusermount3", "-u", point]
        # Around the mounting, too: a mount(8) that is ended by Ctrl-C may have mounted already.
        with releasing(lambda: hold.free(lambda: _unmount(leave, point))):
            _mount(enter, image)
            yield point


@contextlib.contextmanager
def _mount_point() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="mnt-", dir=journal.folder())
    try:
        yield path
    finally:
        # Not empty when the umount failed: then that is the error, and the note in the journal names it.
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def _mount(argv: list[str | Path], image: Path) -> None:
    try:
        done = run(argv)
        # fuse2fs of e2fsprogs 1.47 ends with 0 even when it did not mount.
        if not is_mounted(Path(argv[-1])):
            raise failure(str(argv[0]), done.returncode, done.stdout, done.stderr)
    except ToolError as error:
        raise PiimgError(
            f"cannot mount the root partition of {image.name}: {error.message}",
            "is this a whole image? In a container, run it with --privileged",
        ) from error


def _unmount(argv: list[str | Path], point: Path) -> None:
    deadline = time.monotonic() + _UMOUNT_PATIENCE
    while is_mounted(point):
        try:
            run(argv)
            break
        except ToolError as error:
            if time.monotonic() > deadline:
                raise PiimgError(
                    f"{point} could not be unmounted: {error.message}",
                    "something still uses it: see lsof, then run piimg cleanup",
                ) from error
        time.sleep(0.1)


def is_mounted(point: Path) -> bool:
    """Whether something is mounted at ``point`` (proc(5), mountinfo; blanks are written \\040)."""
    name = str(point).replace(" ", "\\040")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == name for line in lines)
