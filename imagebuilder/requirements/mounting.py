"""Check whether a root partition can be mounted: as root by a loop device, else by FUSE.

It is a trial: a small file system is mounted by the same code that mounts a node image, and removed.
"""

import os
import pwd
import tempfile
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.requirements.host import PRIVILEGED, Found, Host, Lack
from imagebuilder.system import mount
from imagebuilder.system.process import locate, run

_FULL_CAPABILITY = 21  # CAP_SYS_ADMIN: capabilities(7)
_ALL_IDS = ["0", "0", str(2**32 - 1)]  # uid_map outside any user namespace: user_namespaces(7)
_BY_FUSE = "start the container with --device=/dev/fuse --cap-add=SYS_ADMIN"
_PROBE = 1 << 20  # bytes; the file system of the trial mount


def mounting(host: Host) -> Found:
    """Check by a trial whether a root partition can be mounted, and find the reason if not."""
    programs = ("losetup", "mount", "umount") if host.root else ("fuse2fs", "fusermount3")
    if not all(map(locate, ("mke2fs", *programs))) or not Path("/proc/self/mountinfo").exists():
        return  # reported by the checks of programs and kernel folders
    if not host.root and not Path("/etc/mtab").exists():  # fusermount3 mounts without it, but cannot unmount
        yield Lack("/etc/mtab is missing", host.command("ln -s ../proc/self/mounts /etc/mtab"))
        return
    try:
        _try_to_mount()
    except (PiimgError, OSError) as error:
        reasons = list(_no_loop(host) if host.root else _no_fuse(host))
        cause = error.message if isinstance(error, PiimgError) else str(error)
        yield from reasons or [
            Lack(f"a trial mount failed: {cause}", "see the kernel's messages: dmesg | tail")
        ]


def _try_to_mount() -> None:
    with tempfile.TemporaryDirectory(prefix="piimg-doctor-") as folder:
        file = Path(folder) / "trial.img"
        file.touch()
        os.truncate(file, _PROBE)
        # With as few features as possible, so that the trial does not depend on versions.
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "none,extents,filetype", file])
        with mount.ext4(file, 0, _PROBE):
            pass


def _no_loop(host: Host) -> Found:
    if not _may_mount():
        fix = PRIVILEGED if host.container else "run piimg as root of the machine"
        yield Lack(
            "this root user may not mount file systems", f"{fix}; or run piimg as a user other than root"
        )
    else:
        yield from _device("/dev/loop-control", "loop-control", "loop", "0660", host)


def _no_fuse(host: Host) -> Found:
    yield from _device("/dev/fuse", "fuse", "fuse", "0666", host)
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        fix = "add a line for it to /etc/passwd, or run as another user; in a container: docs/containers.md"
        yield Lack(f"the user number {os.getuid()} has no name, which fusermount3 needs", fix)
    if host.container and not _has_capability("CapBnd"):  # fusermount3 is setuid root, within these bounds
        yield Lack("this container may not mount file systems", _BY_FUSE)


def _device(node: str, name: str, module: str, mode: str, host: Host) -> Found:
    """What is wrong with the device file ``node`` of the kernel's misc device ``name`` (major 10)."""
    path, container = Path(node), PRIVILEGED if host.root else _BY_FUSE
    known = {words[1]: words[0] for words in map(str.split, _lines("/proc/misc")) if len(words) == 2}
    if path.exists():
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except PermissionError:
            fix = container if host.container else host.command(f"chmod {mode} {node}")
            yield Lack(f"no permission to open {node}", fix)
        except OSError as error:
            yield Lack(f"{node} cannot be opened: {error.strerror}", host.command(f"modprobe {module}"))
    elif host.container:
        yield Lack(f"{node} is missing", container)
    elif name in known:
        yield Lack(f"{node} is missing", host.command(f"mknod -m {mode} {node} c 10 {known[name]}"))
    else:
        first = [] if locate("modprobe") else [host.install(["kmod"])]
        yield Lack(f"{node} is missing", " && ".join([*first, host.command(f"modprobe {module}")]))


def _may_mount() -> bool:
    """Whether this process has the rights of root over the machine, not only in a user namespace."""
    return _has_capability("CapEff") and [line.split() for line in _lines("/proc/self/uid_map")] == [_ALL_IDS]


def _has_capability(name: str) -> bool:
    """Whether the capability set ``name`` of /proc/self/status includes the right to mount."""
    status = dict(line.split(":", 1) for line in _lines("/proc/self/status"))
    return bool(int(status.get(name, "0").strip() or "0", 16) >> _FULL_CAPABILITY & 1)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
