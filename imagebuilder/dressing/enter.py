"""Enter the system of an image for good, with few rights, and run a program there; for chroot.py.

It is run as a file, and imports nothing of piimg: ``python3 -I -S enter.py ROOT CAPABILITIES PROGRAM…``, in a
mount namespace of its own whose mounts are private. ROOT becomes the root, and the host's file systems leave
the namespace, so that no program can reach them, not even one that leaves a chroot (pivot_root(2)). Only
CAPABILITIES, numbers with commas between them, are left in the bounding set (capabilities(7)).
"""

import ctypes
import errno
import os
import sys
from collections.abc import Collection
from pathlib import Path

_MNT_DETACH = 2  # linux/fs.h
_PR_CAPBSET_DROP = 24  # linux/prctl.h
_NOT_FOUND, _NOT_RUN, _NOT_ENTERED = 127, 126, 125  # exit statuses, as those of chroot(1)
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _enter(root: str) -> None:
    """Make ``root``, which is a mount point, the only file system tree of this namespace."""
    os.chdir(root)
    _checked(_libc.pivot_root(b".", b"."), "pivot_root")  # the old root is now mounted over the new one
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def _keep(capabilities: Collection[int], last: int) -> None:
    for number in range(last + 1):
        if number not in capabilities:
            _checked(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "prctl")


def main(words: list[str]) -> int:
    """Enter and run; returns an exit status only if that fails."""
    root, capabilities, *program = words
    try:
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        _enter(root)
        _keep({int(number) for number in capabilities.split(",")}, last)
    except OSError as error:
        return _failed(str(error.filename), error, _NOT_ENTERED)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        return _failed(program[0], error, _NOT_FOUND if error.errno == errno.ENOENT else _NOT_RUN)


def _failed(what: str, error: OSError, status: int) -> int:
    """Write to the log, which is the standard error, and return ``status``."""
    os.write(2, f"{what}: {error.strerror}\n".encode())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
