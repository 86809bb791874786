"""Mount a root partition: with the kernel through a loop device, or with fuse2fs without root."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system import journal, loop
from imagebuilder.system.process import ToolError, background, failure, run
from imagebuilder.system.releasing import releasing

_UMOUNT_PATIENCE = 10.0  # seconds
_FLUSH_PATIENCE = 600.0  # seconds; all written data may still be in the server's memory
_POLL = 0.02  # seconds
# noinit_itable: no background thread that writes inode tables to the image.
_OPTIONS = "nosuid,nodev,noexec,noatime,noinit_itable"


@contextlib.contextmanager
def ext4(image: Path, offset: int, size: int, *, read_only: bool = False) -> Iterator[Path]:
    """Mount the ext4 file system at ``offset`` (``size`` bytes) of ``image`` and yield the mount point.

    It is mounted with noexec, nodev and nosuid. At the end it is synced and unmounted, never lazily: a failed
    umount is an error. With ``read_only`` nothing is written: the journal is not replayed. Raises PiimgError
    when it cannot be mounted.
    """
    with contextlib.ExitStack() as stack:
        info = image.stat()
        point = Path(stack.enter_context(_mount_point()))
        hold = stack.enter_context(
            journal.hold("mount", point=str(point), device=info.st_dev, inode=info.st_ino, offset=offset)
        )
        mounting = _by_kernel if os.geteuid() == 0 else _by_fuse
        stack.enter_context(mounting(image, offset, size, read_only, point, hold))
        yield point


@contextlib.contextmanager
def _by_kernel(
    image: Path, offset: int, size: int, read_only: bool, point: Path, hold: journal.Hold
) -> Iterator[None]:
    options = f"{_OPTIONS},ro,noload" if read_only else _OPTIONS
    with (
        loop.attached(image, offset=offset, size=size, read_only=read_only, autoclear=True) as device,
        # Before the mount: a mount(8) that is ended by Ctrl-C may have mounted already.
        releasing(lambda: hold.free(lambda: _unmount(["umount", point], point))),
    ):
        _mount(["mount", "-t", "ext4", "-o", options, device, point], image)
        yield


@contextlib.contextmanager
def _by_fuse(
    image: Path, offset: int, size: int, read_only: bool, point: Path, hold: journal.Hold
) -> Iterator[None]:
    """fuse2fs runs as a child, to wait for its end: it writes the last data after the umount."""
    # fuse2fs of e2fsprogs 1.47: with "fakeroot" no permissions are checked. One thread (-s): with several,
    # libfuse can forget to remove a file that was replaced while it was open.
    options = f"fakeroot,offset={offset}" + (",ro" if read_only else "")
    argv: list[str | Path] = ["fuse2fs", "-f", "-s", "-o", options, image, point]
    with tempfile.TemporaryFile() as log:
        with background(argv, said=Path(f"/proc/self/fd/{log.fileno()}")) as server:

            def unmount() -> None:
                _unmount(["fusermount3", "-u", point], point)
                try:
                    server.wait(_FLUSH_PATIENCE)
                except subprocess.TimeoutExpired:
                    raise PiimgError(
                        f"fuse2fs has not finished {image.name} after {_FLUSH_PATIENCE:.0f} seconds",
                        "check the free space and the health of this machine's disk",
                    ) from None

            with releasing(lambda: hold.free(unmount)):
                while not is_mounted(point):
                    if server.poll() is not None:  # with 0, too
                        log.seek(0)
                        raise _unmounted_by_fuse(image, server.returncode, log.read())
                    time.sleep(_POLL)
                yield
        if server.returncode != 0:
            log.seek(0)
            hint = "check the free memory and disk space of this machine, then run the same command again"
            raise failure("fuse2fs", server.returncode, b"", log.read(), hint)


@contextlib.contextmanager
def _mount_point() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="mnt-", dir=journal.folder())
    try:
        yield path
    finally:
        # It fails when the umount failed, which is the error to raise; the note in the journal stays.
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def _mount(argv: list[str | Path], image: Path) -> None:
    try:
        run(argv)
    except ToolError as error:
        raise _unmountable(image, error) from error


_COMPLETE = "check that the image is complete; start a container with --privileged"


def _unmountable(image: Path, error: ToolError, hint: str = _COMPLETE) -> PiimgError:
    return PiimgError(f"cannot mount the root partition of {image.name}: {error.message}", hint)


# What fuse2fs says beside the reason, also when it succeeds (e2fsprogs 1.47, misc/fuse2fs.c).
_NO_REASON = (b"Mounting read-only.", b"Writing to the journal is not supported.")

_FUSE_HINTS = {  # by a part of the line that says the reason (libfuse 3.14: util/fusermount.c, lib/mount.c)
    b"could not determine username": (
        "this user number has no name: add a line for it to /etc/passwd, or run as another user or as root\n"
        "in a container: docs/containers.md"
    ),
    b"/dev/fuse": (
        "this user needs /dev/fuse: sudo modprobe fuse;"
        " in a container: --device /dev/fuse --cap-add SYS_ADMIN"
    ),
    b"Operation not permitted": (
        "mounting is not allowed here: in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN\n"
        "and, where AppArmor forbids it, --security-opt apparmor=unconfined"
    ),
    b"device not found": "load the kernel module: sudo modprobe fuse",
}


def _unmounted_by_fuse(image: Path, status: int, said: bytes) -> PiimgError:
    """The error when fuse2fs ended before it mounted; the line of fusermount or of libfuse is the reason."""
    lines = [line.strip() for line in said.splitlines()]
    lines = [line for line in lines if line and not line.endswith(_NO_REASON)]
    reasons = [line for line in lines if re.match(rb"(\S*/)?(fusermount3?|fuse): ", line)] or lines
    reason = reasons[-1] if reasons else b""
    hint = next((hint for part, hint in _FUSE_HINTS.items() if part in reason), _COMPLETE)
    return _unmountable(image, failure("fuse2fs", status, b"", reason), hint)


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
                    "a program still uses it: see lsof, then run piimg cleanup",
                ) from error
        time.sleep(0.1)


def is_mounted(point: Path) -> bool:
    """Whether a file system is mounted at ``point`` (proc(5), mountinfo; blanks are written \\040)."""
    name = str(point).replace(" ", "\\040")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == name for line in lines)
