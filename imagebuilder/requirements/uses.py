"""The table of uses, ``USES``, and their checks.

A check yields nothing if the requirement is met, a ``Lack`` if the use cannot work,
and a ``Note`` if it works with a limitation. Where possible the check is a trial.
"""

import contextlib
import grp
import importlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.cache import default_folder
from imagebuilder.errors import PiimgError
from imagebuilder.requirements.host import PRIVILEGED, Found, Host, Lack, Note, user_name
from imagebuilder.requirements.mounting import mounting
from imagebuilder.requirements.optional import weasyprint, web_libraries
from imagebuilder.system import udisks
from imagebuilder.system.emulation import try_arm64
from imagebuilder.system.process import PACKAGES, ToolError, locate

_GIB = 1 << 30
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_UDEVD = Path("/run/udev/control")
_CACHE = "set PIIMG_CACHE=DIR to move the cache"


@dataclass(frozen=True)
class Use:
    """A use of piimg: the Debian packages whose programs it runs, and its other checks.

    ``optional`` says when it is needed, if most clusters do without it.
    """

    packages: tuple[str, ...]
    looks: tuple[Callable[[Host], Found], ...]
    as_root: tuple[str, ...] = ()
    as_user: tuple[str, ...] = ()
    optional: str = ""

    def all_packages(self, root: bool) -> tuple[str, ...]:
        """The packages, including those that only root or only other users need."""
        return self.packages + (self.as_root if root else self.as_user)


def look(use: Use, host: Host) -> list[Lack | Note]:
    """All lacks and notes of a use, without duplicates."""
    findings = (*missing_programs(use, host), *(finding for check in use.looks for finding in check(host)))
    return list(dict.fromkeys(findings))


def missing_programs(use: Use, host: Host) -> Found:
    """A lack if programs of a use are not installed."""
    needed = use.all_packages(host.root)
    missing = {package for name, package in PACKAGES.items() if package in needed and not locate(name)}
    if missing:
        yield Lack(f"not installed: {', '.join(sorted(missing))}", host.install(missing))


def kernel_folders(host: Host) -> Found:
    """Check that /proc and /sys are mounted; in a plain chroot they are not."""
    for name, path in (("proc", "/proc/self/mountinfo"), ("sys", "/sys/class/block")):
        if not Path(path).exists():
            kind = "sysfs" if name == "sys" else name
            yield Lack(f"/{name} is empty", host.command(f"mount -t {kind} {kind} /{name}"))


def libparted(host: Host) -> Found:
    """Check the library that reads partition tables by loading it."""
    try:
        importlib.import_module("parted")
    except ImportError as error:
        yield Lack(f"libparted cannot be loaded: {error}", host.install(["libparted2"]))


def libudev(host: Host) -> Found:
    """Check the library that lists disks by loading it as piimg does."""
    if not Path("/sys/class/block").exists():
        return  # reported by kernel_folders
    try:
        _cards()
    except (PiimgError, ImportError, OSError):
        yield Lack("libudev cannot be loaded", host.install(["libudev1"]))


def _cards() -> list[Path]:
    """The device files of the card slots, with or without a card in them."""
    from imagebuilder.device.discovery import find_disks
    from imagebuilder.device.policy import kind

    return [disk.node for disk in find_disks() if not kind(disk, virtual=False)]


def _space(needed: int, doing: str, folders: Mapping[Path, str]) -> Found:
    """Check free space and write permission in ``folders``, or in their nearest existing parents.

    ``needed`` is in bytes. The value of each folder says how to choose another one. Each disk is reported
    once.
    """
    disks = set()
    for folder, fix in folders.items():
        candidates = (folder.absolute(), *folder.absolute().parents)
        existing = next(path for path in candidates if os.path.isdir(path))  # noqa: PTH112 - never raises
        if not os.access(existing, os.W_OK | os.X_OK):
            yield Lack(f"no permission to write to {existing}", fix)
        free, disk = shutil.disk_usage(existing).free, existing.stat().st_dev
        if free < needed and disk not in disks:
            shortage = (
                f"{existing} has {free / _GIB:.1f} GiB free; {doing} needs about {needed / _GIB:.0f} GiB"
            )
            yield Lack(shortage, f"free some with piimg fetch --prune, or {fix}")
        disks.add(disk)


def space_to_build(host: Host) -> Found:
    """Check the space for an unpacked base image and the node images."""
    output = "choose another folder with piimg build --output DIR"
    yield from _space(8 * _GIB, "building", {host.folder: output, default_folder(): _CACHE})


def space_to_boot(host: Host) -> Found:
    """Check the space for the companion kernel and for the writes of six booting nodes."""
    yield from _space(3 * _GIB, "booting", {default_folder(): _CACHE})


def right_to_write_cards(host: Host) -> Found:
    """Check the permission to write to cards: of a slot's device file or, without a slot, the group disk."""
    yield from _right_to("write to cards", os.R_OK | os.W_OK, "flash", host)


def right_to_read_cards(host: Host) -> Found:
    """Check the permission to read cards, in the same way."""
    yield from _right_to("read cards", os.R_OK, "backup", host)


def _right_to(doing: str, mode: int, command: str, host: Host) -> Found:
    if host.root or not Path("/sys/class/block").exists():
        return
    cards: list[Path] = []
    with contextlib.suppress(PiimgError, ImportError, OSError):  # reported by libudev
        cards = _cards()
    if any(os.access(card, mode) for card in cards):
        return
    with contextlib.suppress(KeyError):
        if not cards and grp.getgrnam("disk").gr_gid in os.getgroups():
            return
    join = f"{host.command(f'usermod -aG disk {user_name()}')} and log in again"
    fix = f"sudo piimg {command} …; or, permanently, {join}" if locate("sudo") else join
    yield Lack(f"this user has no permission to {doing}", fix)


def right_to_flash(host: Host) -> Found:
    """Check the permission to flash: of the device files, or by udisks2, which can authorize one card."""
    lacks = list(right_to_write_cards(host))
    if lacks and udisks.is_there():
        yield Note("udisks2 opens a card for this user, and may ask for a password: flash with --node NODE")
    else:
        yield from lacks


def sudo_is_not_needed(folder: Path) -> bool:
    """Whether piimg runs under sudo and the calling user could build in ``folder`` without it."""
    user = os.environ.get("SUDO_UID", "0")
    try:
        fuse = Path("/dev/fuse").stat().st_mode & 0o006 == 0o006
        own = folder.stat().st_uid == int(user) != 0
    except (OSError, ValueError):
        return False
    return os.geteuid() == 0 and own and fuse and all(map(locate, ("fuse2fs", "fusermount3")))


def kernel_for_cards(host: Host) -> Found:
    """Check for Linux 5.15, which numbers inserted media; before, cards of one size look the same."""
    disks = list(Path("/sys/class/block").glob("*/size"))
    if disks and not any(disk.with_name("diskseq").exists() for disk in disks):
        yield Note(
            "this kernel is older than Linux 5.15: a change between cards of one size cannot be detected"
        )


def udevd(host: Host) -> Found:
    """Check for the udev daemon, which reports inserted cards and knows more readers than the kernel."""
    if _UDEVD.exists():
        return
    limits = "no udev daemon is running: slots are polled every second, some readers have no model or serial"
    hint = "; to use the host's in a container, add -v /run/udev:/run/udev:ro" if host.container else ""
    yield Note(f"{limits}{hint}")


def keyring(host: Host) -> Found:
    """Check for the keyring that verifies the packages of the companion kernel."""
    if not _KEYRING.exists():
        yield Lack("Debian's signing keys are not installed", host.install(["debian-archive-keyring"]))


def kvm(host: Host) -> Found:
    """Check for KVM, which only an arm64 machine has for these nodes."""
    if os.uname().machine != "aarch64":
        yield Note("nodes run in emulation on this machine, and take minutes to boot")
    elif not os.access("/dev/kvm", os.R_OK | os.W_OK):
        join = host.command(f"usermod -aG kvm {user_name()}")
        yield Note(f"no permission to use /dev/kvm: nodes run in emulation; to join the group kvm: {join}")


def arm64_programs(host: Host) -> Found:
    """Check by a trial whether an image's own programs can be run, to install packages in it."""
    if not all(map(locate, ("chroot", "unshare", *(() if host.root else ("newuidmap",))))):
        return  # reported by the check of programs
    try:
        try_arm64()
    except (PiimgError, OSError) as error:
        cause = error.stderr if isinstance(error, ToolError) else b""
        if b"exec" not in cause.lower() and not host.root:  # user namespace, or its numbers
            line = f"{user_name()}:100000:65536"
            fix = host.command(f"sh -c 'echo {line} >>/etc/subuid; echo {line} >>/etc/subgid'")
            yield Lack(f"no range of user numbers for packages: {str(error)[:200]}", fix)
        elif os.uname().machine == "aarch64":
            yield Lack(f"no permission to run programs of an image: {str(error)[:200]}", PRIVILEGED)
        else:
            fix = host.install(["binfmt-support", "qemu-user-static"])
            yield Lack("this machine cannot run arm64 programs, as packages need", fix)


_EMULATOR = ("coreutils", "openssh-client", "qemu-system-arm", "qemu-utils", "util-linux")
_COMPANION = ("apt", "cpio", "dpkg", "kmod", "mtools")
_CARDS = ("e2fsprogs", "mount", "mtools")

USES: Mapping[str, Use] = {
    "build": Use(
        ("e2fsprogs", "gpgv", "mtools", "unzip", "xz-utils", "zstd"),
        (kernel_folders, libparted, mounting, space_to_build),
        as_root=("mount",),
        as_user=("fuse2fs", "fuse3", "util-linux"),
    ),
    "packages": Use(
        ("apt", "coreutils", "e2fsprogs", "mount", "util-linux"),
        (kernel_folders, mounting, arm64_programs, space_to_build),
        as_user=("fuse2fs", "fuse3", "uidmap"),
        optional="only for nodes with packages or build scripts",
    ),
    "flash": Use(_CARDS, (kernel_folders, libparted, libudev, right_to_flash, kernel_for_cards, udevd)),
    "backup": Use(
        ("e2fsprogs", "mtools"), (kernel_folders, libparted, libudev, right_to_read_cards, kernel_for_cards)
    ),
    "boot": Use((*_EMULATOR, *_COMPANION), (kernel_folders, libparted, keyring, kvm, space_to_boot)),
    "station": Use(
        _CARDS, (kernel_folders, libparted, libudev, right_to_write_cards, kernel_for_cards, udevd)
    ),
    "web": Use((), (web_libraries,), optional="only for --web"),
    "pdf": Use((), (weasyprint,), optional="only for a PDF of piimg sheet"),
}
