"""A machine of its own for a test: real daemons (udev, D-Bus, polkit, udisks2) in namespaces.

It shares the kernel and its block devices with the host, and has its own /dev, /run and process numbers. So
udevd there gives rights to device files that nobody else sees, and answers only who is inside.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import TOP
from tests.support.waiting import wait_until

USER, ID = "piimg", 64042  # an ordinary user, and group, that the machine has besides the host's

UDEVD, UDISKSD, POLKITD = (
    "/lib/systemd/systemd-udevd",
    "/usr/libexec/udisks2/udisksd",
    "/usr/lib/polkit-1/polkitd",
)
_PACKAGES = {
    UDEVD: "udev",
    UDISKSD: "udisks2",
    POLKITD: "polkitd",
    "dbus-daemon": "dbus",
    "udisksctl": "udisks2",
}

_SETUP = """
set -eu
folder=$1
mount --make-rprivate /
# What others have mounted meanwhile must not be held by a copy of it in here.
grep -o ' /[^ ]*/piimg/mnt-[^ ]*' /proc/self/mounts | while read -r point; do umount "$point"; done
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/group" /etc/group
mkdir "$folder/dev"
mount -t tmpfs -o mode=755 tmpfs "$folder/dev"
for name in null zero full random urandom tty fuse loop-control; do cp -a "/dev/$name" "$folder/dev/"; done
mkdir "$folder/dev/pts" "$folder/dev/shm"
mount --rbind /dev/pts "$folder/dev/pts"
ln -s /proc/self/fd "$folder/dev/fd"
mount --move "$folder/dev" /dev
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/udev/rules.d /run/dbus /run/lock
cp -r "$folder/rules.d/." /run/udev/rules.d/
"""


def _readable_python() -> str:
    """Shell commands that let the user read this Python and the checkout, where a folder above is root's own.

    piimg starts an interpreter to render templates; what was imported before the rights went is not in it.
    """
    closed: list[Path] = []
    for place in (Path(sys.base_prefix), Path(sys.prefix), TOP):
        above = [*reversed(place.resolve().parents), place.resolve()]
        closed += [folder for folder in above if not folder.stat().st_mode & 0o001][:1]
    lines = []
    for number, folder in enumerate(dict.fromkeys(closed)):
        own = f"$folder/open{number}"
        lines += [
            f'mkdir "{own}"',
            f'mount -t tmpfs tmpfs "{own}"',
            f'mkdir -m 755 "{own}/upper" "{own}/work"',
        ]
        options = f"lowerdir={folder},upperdir={own}/upper,workdir={own}/work"
        lines.append(f'mount -t overlay -o "{options}" overlay "{folder}"')
    return "".join(f"{line}\n" for line in lines)


_POLKIT = """polkit.addRule(function(action, subject) {{
    if ([{rules}].indexOf(action.id) >= 0 && subject.user == "{user}") return polkit.Result.YES;
    return polkit.Result.NO;
}});
"""


@dataclass(frozen=True)
class Machine:
    """A machine that runs. ``process`` is its first one, by the host's number."""

    process: int
    folder: Path

    def entered(self, argv: Sequence[object], folder: Path = Path("/")) -> list[str]:
        """The command line that runs ``argv`` in the machine, as root, in ``folder``."""
        enter = ["nsenter", f"--target={self.process}", "--mount", "--net", "--pid", f"--wdns={folder}"]
        return [*enter, "--", *map(str, argv)]

    def run(self, *argv: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a program in the machine to its end."""
        return subprocess.run(
            self.entered(argv), capture_output=True, text=True, check=False, timeout=120, **options
        )

    def good(self, *argv: object, **options: Any) -> str:
        """The same, and it must succeed; what it printed."""
        done = self.run(*argv, **options)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, *argv: object) -> "subprocess.Popen[bytes]":
        """Start a daemon; what it says goes to a file of this name."""
        with (self.folder / name).open("wb") as log:
            return subprocess.Popen(
                self.entered(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start_udisks(self, *allowed: str) -> None:
        """Start udisks2, with D-Bus and a polkit that allows the user these actions and no others."""
        rules = "".join(f"'{action}', " for action in allowed)
        (self.folder / "polkit").mkdir()
        (self.folder / "polkit" / "10-test.rules").write_text(_POLKIT.format(rules=rules, user=USER))
        self.good("mount", "--bind", self.folder / "polkit", "/etc/polkit-1/rules.d")
        self.start("dbus.log", "dbus-daemon", "--system", "--nofork", "--nopidfile")
        _wait_for(self.inside(Path("/run/dbus/system_bus_socket")))
        self.start("polkit.log", POLKITD, "--no-debug")
        self.start("udisks.log", UDISKSD, "--debug")
        self.good("udisksctl", "status")  # waits for it

    def make_node(self, number: int) -> Path:
        """Make the device file of a loop device: in the machine's /dev there is only what is made."""
        node = Path(f"/dev/loop{number}")
        self.good("mknod", "-m", "600", node, "b", 7, number)
        return node

    def inside(self, path: Path) -> Path:
        """A file of the machine, as the host sees it."""
        return Path(f"/proc/{self.process}/root{path}")


def require(*programs: str) -> None:
    """Skip, saying what is missing, where a machine cannot be had."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: sudo apt-get install {_PACKAGES[program]}")
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs namespaces: {done.stderr.strip()}")


@contextmanager
def machine(folder: Path, rules: str | None = None) -> Iterator[Machine]:
    """A machine; with udev if there are ``rules``, which it then has too. It ends with all its processes."""
    require(*([] if rules is None else [UDEVD]))
    (folder / "rules.d").mkdir(parents=True)
    (folder / "rules.d" / "70-test.rules").write_text(rules or "")
    for name, line in (("passwd", f"{USER}:x:{ID}:{ID}::/:/bin/sh"), ("group", f"{USER}:x:{ID}:")):
        (folder / name).write_text(f"{Path('/etc', name).read_text()}{line}\n")
    (folder / "setup").write_text(_SETUP + _readable_python() + "touch /run/ready\nexec sleep infinity\n")
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    outer = subprocess.Popen(
        [*namespaces, "sh", folder / "setup", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        one = Machine(_first_process(outer), folder)
        _wait_for(one.inside(Path("/run/ready")))
        if rules is not None:
            one.start("udevd.log", UDEVD)
            _wait_for(one.inside(Path("/run/udev/control")))
        yield one
    finally:
        outer.kill()
        outer.wait()


def _first_process(outer: "subprocess.Popen[bytes]") -> int:
    def children() -> list[str]:
        return Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()

    wait_until(lambda: outer.poll() is not None or children(), 30)
    assert outer.poll() is None, "the machine does not start"
    return int(children()[0])


def _wait_for(file: Path, seconds: float = 30) -> None:
    wait_until(lambda: os.path.lexists(file), seconds, lambda: f"there is no {file}")


AS_USER = f"""
import _strptime, encodings, importlib, os, pkgutil, sys
import imagebuilder
from imagebuilder.cli.main import main
for module in pkgutil.iter_modules(encodings.__path__):
    if module.name not in ("mbcs", "oem"):  # these are for Windows
        importlib.import_module(f"encodings.{{module.name}}")
for module in pkgutil.walk_packages(imagebuilder.__path__, "imagebuilder."):
    importlib.import_module(module.name)
os.setgroups([int(group) for group in os.environ.pop("GROUPS_OF_USER", "").split()])
os.setgid({ID}), os.setuid({ID})
os.environ["HOME"] = os.environ.pop("HOME_OF_USER", "/")
main()
"""
"""piimg as the machine's ordinary user, with no more groups than are named.

It becomes that user once everything is imported: the interpreter itself may lie in root's home.
"""
