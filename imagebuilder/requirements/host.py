"""This machine, and what a check of it finds."""

import contextlib
import os
import pwd
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.system.process import locate

PRIVILEGED = "start the container as root and with --privileged"
_MARKS = ("/run/.containerenv", "/.dockerenv", "/run/systemd/container")


@dataclass(frozen=True)
class Lack:
    """A missing requirement, and the command that fixes it."""

    what: str
    fix: str


@dataclass(frozen=True)
class Note:
    """A limitation; the use works nevertheless."""

    what: str


Found = Iterator[Lack | Note]


@dataclass(frozen=True)
class Host:
    """This machine. ``folder`` is where node images are to be built."""

    folder: Path
    root: bool
    container: bool

    def command(self, words: str) -> str:
        """The shell command ``words``, which needs root, for this user: with sudo or su if needed."""
        if self.root:
            return words
        return f"sudo {words}" if locate("sudo") else f"su - -c {shlex.quote(words)}"

    def install(self, packages: Collection[str]) -> str:
        """The command that installs Debian packages, with apt-get update if no package lists exist."""
        names = " ".join(sorted(packages))
        if not locate("apt-get"):
            return f"install the programs of these Debian packages: {names}"
        words = f"apt-get install -y --no-install-recommends {names}"
        has_lists = any(Path("/var/lib/apt/lists").glob("*_Packages*"))
        if has_lists:
            return self.command(words)
        return f"{self.command('apt-get update')} && {self.command(words)}"


def this_host(folder: Path) -> Host:
    """The machine piimg runs on, for node images in ``folder``."""
    return Host(folder, os.geteuid() == 0, _in_container())


def _in_container() -> bool:
    if any(Path(mark).exists() for mark in _MARKS):
        return True
    with contextlib.suppress(OSError):
        return b"\0container=" in b"\0" + Path("/proc/1/environ").read_bytes()
    return False


def user_name() -> str:
    """The user's name, or the number if it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
