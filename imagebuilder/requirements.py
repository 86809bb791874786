"""What each use of piimg needs of this machine, what is missing of it, and the command that fixes that.

``USES`` is the table. A look at a need yields what it found: nothing when it is there, a ``Lack`` when the
use cannot do without, a ``Note`` when it can. Where a thing can simply be tried, it is: building mounts a
small file system of its own, by the code that will mount the real one, and leaves nothing behind.
"""

import contextlib
import grp
import importlib
import os
import pwd
import shlex
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.cache import default_folder
from imagebuilder.errors import PiimgError
from imagebuilder.system import mount, udisks
from imagebuilder.system.process import PACKAGES, locate, run

_GIB = 1 << 30
_FULL_CAPABILITY = 21  # CAP_SYS_ADMIN: capabilities(7)
_WHOLE_WORLD = ["0", "0", str(2**32 - 1)]  # uid_map outside any user namespace: user_namespaces(7)
_PRIVILEGED = "start the container as root and with --privileged"
_BY_FUSE = "start the container with --device=/dev/fuse --cap-add=SYS_ADMIN"
_MARKS = ("/run/.containerenv", "/.dockerenv", "/run/systemd/container")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_UDEVD = Path("/run/udev/control")
_CACHE = "PIIMG_CACHE=DIR puts the cache elsewhere"
_PROBE = 1 << 20  # bytes; the file system that is mounted as a trial


@dataclass(frozen=True)
class Lack:
    """Something a use cannot do without, and the command that fixes it."""

    what: str
    fix: str


@dataclass(frozen=True)
class Note:
    """Something worth knowing; the use works all the same."""

    what: str


Found = Iterator[Lack | Note]


@dataclass(frozen=True)
class Host:
    """The machine as ``folder`` sees it: where the node images are to lie."""

    folder: Path
    root: bool
    container: bool

    def command(self, words: str) -> str:
        """``words``, which want root, as this user says them."""
        if self.root:
            return words
        return f"sudo {words}" if locate("sudo") else f"su - -c {shlex.quote(words)}"

    def install(self, packages: Collection[str]) -> str:
        """The command that installs Debian packages; a bare system first needs to learn which there are."""
        names = " ".join(sorted(packages))
        if not locate("apt-get"):
            return f"install what Debian has in: {names}"
        words = f"apt-get install -y --no-install-recommends {names}"
        known = any(Path("/var/lib/apt/lists").glob("*_Packages*"))
        if known:
            return self.command(words)
        return f"{self.command('apt-get update')} && {self.command(words)}"


@dataclass(frozen=True)
class Use:
    """One use of piimg: the Debian packages whose programs it runs, and what else has to be looked at."""

    packages: tuple[str, ...]
    looks: tuple[Callable[[Host], Found], ...]
    as_root: tuple[str, ...] = ()
    as_user: tuple[str, ...] = ()

    def all_packages(self, root: bool) -> tuple[str, ...]:
        """The packages, with those that only root or only an ordinary user needs."""
        return self.packages + (self.as_root if root else self.as_user)


def this_host(folder: Path) -> Host:
    """The machine piimg runs on, for node images in ``folder``."""
    return Host(folder, os.geteuid() == 0, _in_container())


def _in_container() -> bool:
    if any(Path(mark).exists() for mark in _MARKS):
        return True
    with contextlib.suppress(OSError):
        return b"\0container=" in b"\0" + Path("/proc/1/environ").read_bytes()
    return False


def look(use: Use, host: Host) -> list[Lack | Note]:
    """All that is found about one use, each thing once."""
    found: list[Lack | Note] = []
    for finding in (*_programs(use, host), *(one for look in use.looks for one in look(host))):
        if finding not in found:
            found.append(finding)
    return found


def _programs(use: Use, host: Host) -> Found:
    wanted = use.all_packages(host.root)
    missing = {package for name, package in PACKAGES.items() if package in wanted and not locate(name)}
    if missing:
        yield Lack(f"not installed: {', '.join(sorted(missing))}", host.install(missing))


def kernel_folders(host: Host) -> Found:
    """/proc and /sys, which a bare chroot lacks."""
    for name, sign in (("proc", "/proc/self/mountinfo"), ("sys", "/sys/class/block")):
        if not Path(sign).exists():
            kind = "sysfs" if name == "sys" else name
            yield Lack(f"/{name} is empty", host.command(f"mount -t {kind} {kind} /{name}"))


def libparted(host: Host) -> Found:
    """The library that reads partition tables, as piimg will load it."""
    try:
        importlib.import_module("imagebuilder.image.partitions")
    except ImportError as error:
        yield Lack(f"libparted cannot be loaded: {error}", host.install(["libparted2"]))


def libudev(host: Host) -> Found:
    """The library that lists disks, as piimg will load it."""
    if not Path("/sys/class/block").exists():
        return  # told already
    try:
        _cards()
    except (PiimgError, ImportError, OSError):
        yield Lack("libudev cannot be loaded", host.install(["libudev1"]))


def _cards() -> list[Path]:
    """The device files of the slots that cards are put into, with and without one."""
    from imagebuilder.device.discovery import find_disks
    from imagebuilder.device.policy import kind

    return [disk.node for disk in find_disks() if not kind(disk, virtual=False)]


def mounting(host: Host) -> Found:
    """Whether a root partition can be mounted: tried, and the reason looked for when it cannot."""
    named = ("losetup", "mount", "umount") if host.root else ("fuse2fs", "fusermount3")
    if not all(map(locate, ("mke2fs", *named))) or not Path("/proc/self/mountinfo").exists():
        return  # told already
    if not host.root and not Path("/etc/mtab").exists():  # fusermount3 mounts without it, but never unmounts
        yield Lack("/etc/mtab is not there", host.command("ln -s ../proc/self/mounts /etc/mtab"))
        return
    try:
        _try_to_mount()
    except (PiimgError, OSError) as error:
        reasons = list(_no_loop(host) if host.root else _no_fuse(host))
        what = error.message if isinstance(error, PiimgError) else str(error)
        yield from reasons or [Lack(f"a trial failed: {what}", "the kernel's reason is in: dmesg | tail")]


def _try_to_mount() -> None:
    with tempfile.TemporaryDirectory(prefix="piimg-doctor-") as folder:
        file = Path(folder) / "trial.img"
        file.touch()
        os.truncate(file, _PROBE)
        # The fewest features, so that this tells of mounting and not of versions.
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "none,extents,filetype", file])
        with mount.ext4(file, 0, _PROBE):
            pass


def _no_loop(host: Host) -> Found:
    if not _may_mount():
        fix = _PRIVILEGED if host.container else "run piimg as the machine's own root"
        yield Lack("this root may not mount anything", f"{fix}; or run piimg as another user than root")
    else:
        yield from _device("/dev/loop-control", "loop-control", "loop", "0660", host)


def _no_fuse(host: Host) -> Found:
    yield from _device("/dev/fuse", "fuse", "fuse", "0666", host)
    if host.container and not _has_capability("CapBnd"):  # fusermount3 is root's, and has no more than that
        yield Lack("nobody may mount anything here", _BY_FUSE)


def _device(node: str, name: str, module: str, mode: str, host: Host) -> Found:
    """What is wrong with a device file of the kernel's "misc" kind (major 10), called ``name`` there."""
    path, container = Path(node), _PRIVILEGED if host.root else _BY_FUSE
    known = {words[1]: words[0] for words in map(str.split, _lines("/proc/misc")) if len(words) == 2}
    if path.exists():
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except PermissionError:
            fix = container if host.container else host.command(f"chmod {mode} {node}")
            yield Lack(f"{node} may not be opened", fix)
        except OSError as error:
            yield Lack(f"{node} cannot be opened: {error.strerror}", host.command(f"modprobe {module}"))
    elif host.container:
        yield Lack(f"{node} is not there", container)
    elif name in known:
        yield Lack(f"{node} is not there", host.command(f"mknod -m {mode} {node} c 10 {known[name]}"))
    else:
        first = [] if locate("modprobe") else [host.install(["kmod"])]
        yield Lack(f"{node} is not there", " && ".join([*first, host.command(f"modprobe {module}")]))


def _may_mount() -> bool:
    """Whether this process has root's rights over the machine, not only over a user namespace."""
    return _has_capability("CapEff") and [line.split() for line in _lines("/proc/self/uid_map")] == [
        _WHOLE_WORLD
    ]


def _has_capability(which: str) -> bool:
    """Whether the right to mount is in this set of capabilities, named as in /proc/self/status."""
    status = dict(line.split(":", 1) for line in _lines("/proc/self/status"))
    return bool(int(status.get(which, "0").strip() or "0", 16) >> _FULL_CAPABILITY & 1)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _room(needed: int, doing: str, folders: Mapping[Path, str]) -> Found:
    """Room in ``folders`` and the right to write there, or in what there is of the way to them.

    With each folder, how to name another. What lies on one disk is told of once.
    """
    disks = set()
    for folder, fix in folders.items():
        way = (folder.absolute(), *folder.absolute().parents)
        there = next(path for path in way if os.path.isdir(path))  # noqa: PTH112 - False, if it may not be seen
        if not os.access(there, os.W_OK | os.X_OK):
            yield Lack(f"{there} may not be written to", fix)
        free, disk = shutil.disk_usage(there).free, there.stat().st_dev
        if free < needed and disk not in disks:
            what = f"{there} has {free / _GIB:.1f} GiB free, and {doing} needs about {needed / _GIB:.0f}"
            yield Lack(what, f"piimg fetch --prune frees some; {fix}")
        disks.add(disk)


def room_to_build(host: Host) -> Found:
    """For a base image, unpacked, and the node images."""
    output = "piimg build --output DIR puts the node images elsewhere"
    yield from _room(8 * _GIB, "building", {host.folder: output, default_folder(): _CACHE})


def room_to_boot(host: Host) -> Found:
    """For the companion kernel, and what six nodes write while they boot."""
    yield from _room(3 * _GIB, "booting", {default_folder(): _CACHE})


def right_to_write_cards(host: Host) -> Found:
    """Root has it. Others have it where udev gave them a slot; where there is none yet, by the group disk."""
    if host.root or not Path("/sys/class/block").exists():
        return
    cards: list[Path] = []
    with contextlib.suppress(PiimgError, ImportError, OSError):  # told already
        cards = _cards()
    if any(os.access(card, os.R_OK | os.W_OK) for card in cards):
        return
    with contextlib.suppress(KeyError):
        if not cards and grp.getgrnam("disk").gr_gid in os.getgroups():
            return
    join = f"{host.command(f'usermod -aG disk {_user()}')} and log in anew"
    fix = f"sudo piimg flash …; or, for good, {join}" if locate("sudo") else join
    yield Lack("this user may not write to cards", fix)


def right_to_flash(host: Host) -> Found:
    """Flashing one named card can also be left to udisks2, which asks who is there."""
    lacks = list(right_to_write_cards(host))
    if lacks and udisks.is_there():
        yield Note(
            "udisks2 opens a card for this user, and may ask for a password; name the node with --node"
        )
    else:
        yield from lacks


def sudo_is_not_needed(folder: Path) -> bool:
    """Whether this is sudo, and the user who called it could build in ``folder`` without it."""
    user = os.environ.get("SUDO_UID", "0")
    try:
        fuse = Path("/dev/fuse").stat().st_mode & 0o006 == 0o006
        own = folder.stat().st_uid == int(user) != 0
    except (OSError, ValueError):
        return False
    return os.geteuid() == 0 and own and fuse and all(map(locate, ("fuse2fs", "fusermount3")))


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def kernel_for_cards(host: Host) -> Found:
    """Linux numbers the media that are put in since 5.15; without, two cards of one size look the same."""
    disks = list(Path("/sys/class/block").glob("*/size"))
    if disks and not any(disk.with_name("diskseq").exists() for disk in disks):
        yield Note("this kernel is older than Linux 5.15, and cannot tell a changed card from the one before")


def udevd(host: Host) -> Found:
    """The daemon that knows more of a reader than the kernel, and tells when a card is put in."""
    if _UDEVD.exists():
        return
    what = "no udev daemon runs here: slots are looked at every second, some readers have no model and serial"
    yield Note(
        f"{what}; a container sees the host's with -v /run/udev:/run/udev:ro" if host.container else what
    )


def keyring(host: Host) -> Found:
    """What the companion kernel's packages are checked with."""
    if not _KEYRING.exists():
        yield Lack("Debian's signing keys are not here", host.install(["debian-archive-keyring"]))


def kvm(host: Host) -> Found:
    """Only an arm64 machine can run the nodes without emulation."""
    if os.uname().machine != "aarch64":
        yield Note("the nodes run in emulation here, and take minutes to start")
    elif not os.access("/dev/kvm", os.R_OK | os.W_OK):
        join = host.command(f"usermod -aG kvm {_user()}")
        yield Note(
            f"/dev/kvm cannot be used, so the nodes run in emulation; the group kvm may use it: {join}"
        )


_EMULATOR = ("coreutils", "openssh-client", "qemu-system-arm", "qemu-utils", "util-linux")
_COMPANION = ("apt", "cpio", "dpkg", "kmod", "mtools")
_CARDS = ("e2fsprogs", "mount", "mtools")

USES: Mapping[str, Use] = {
    "build": Use(
        ("e2fsprogs", "gpgv", "mtools", "xz-utils", "zstd"),
        (kernel_folders, libparted, mounting, room_to_build),
        as_root=("mount",),
        as_user=("fuse2fs", "fuse3", "util-linux"),
    ),
    "flash": Use(_CARDS, (kernel_folders, libparted, libudev, right_to_flash, kernel_for_cards, udevd)),
    "boot": Use((*_EMULATOR, *_COMPANION), (kernel_folders, libparted, keyring, kvm, room_to_boot)),
    "station": Use(
        _CARDS, (kernel_folders, libparted, libudev, right_to_write_cards, kernel_for_cards, udevd)
    ),
}
