"""`piimg doctor`: what this machine lacks for building, booting and flashing, and what mends it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from imagebuilder.boot.machine import can_kvm
from imagebuilder.system.process import PACKAGES, locate

EXAMPLES = """\b
Example:
  piimg doctor
"""

_BOOT = (
    "apt-get",
    "cpio",
    "depmod",
    "dpkg-deb",
    "mtype",
    "qemu-img",
    "qemu-system-aarch64",
    "setpriv",
    "ssh",
)
_BUILD = ("mtools", "e2fsprogs", "xz-utils", "zstd", "gpgv")
_ROOM = 8 << 30  # bytes; a base image, unpacked, and its node images


@dataclass(frozen=True)
class Fault:
    """Something that is missing for one use of piimg, and what mends it."""

    use: str
    what: str
    cure: str


@click.command("doctor", epilog=EXAMPLES)
@click.pass_context
def doctor(context: click.Context) -> None:
    """Say what this machine lacks, and the command that mends it.

    Exit code 0 when nothing is missing, 1 otherwise. Changes nothing.
    """
    faults = [*_programs(), *_loop_devices(), *_booting(), *_rights(), *_room()]
    for use in ("build", "boot", "flash"):
        found = [fault for fault in faults if use in fault.use.split()]
        click.echo(f"{use}: {'ready' if not found else ''}".rstrip())
        for fault in found:
            click.echo(f"  {fault.what}\n      {fault.cure}")
    if faults:
        context.exit(1)


def _programs() -> Iterator[Fault]:
    wanted = [*_BUILD, "mount"] if os.geteuid() == 0 else [*_BUILD, "fuse2fs", "fuse3"]
    lacking = sorted({PACKAGES[name] for name in PACKAGES if PACKAGES[name] in wanted and not locate(name)})
    if lacking:
        yield Fault(
            "build", f"not installed: {', '.join(lacking)}", f"sudo apt-get install {' '.join(lacking)}"
        )


def _loop_devices() -> Iterator[Fault]:
    if os.geteuid() == 0 and not Path("/dev/loop-control").exists():
        yield Fault(
            "build",
            "there are no loop devices",
            "sudo modprobe loop; in a container: run it with --privileged",
        )
    if os.geteuid() != 0 and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        yield Fault("build", "/dev/fuse cannot be opened", "sudo modprobe fuse, or run piimg with sudo")


def _booting() -> Iterator[Fault]:
    lacking = sorted({PACKAGES[name] for name in _BOOT if not locate(name)})
    if lacking:
        yield Fault(
            "boot", f"not installed: {', '.join(lacking)}", f"sudo apt-get install {' '.join(lacking)}"
        )
    if os.uname().machine == "aarch64" and not can_kvm():
        yield Fault(
            "boot", "/dev/kvm cannot be used: nodes are slow", "sudo adduser $USER kvm, and log in anew"
        )


def _rights() -> Iterator[Fault]:
    if os.geteuid() != 0:
        yield Fault("flash", "writing a card needs the right to open it", "run: sudo piimg flash …")


def _room() -> Iterator[Fault]:
    free = shutil.disk_usage(Path.cwd()).free
    if free < _ROOM:
        yield Fault(
            "build", f"only {free >> 30} GiB are free in this folder", "free some, or use build --output"
        )
