"""Examination of a base image: user account, sshd and machine identity."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from imagebuilder.image.base.findings import Finding, removal, rewriting
from imagebuilder.image.base.reader import BaseReader
from imagebuilder.image.base.units import absent
from imagebuilder.model import HOME, Partition, Release
from imagebuilder.overlay.layer import USER_ID
from imagebuilder.text import printable

_ROOT = Partition.ROOT
_SEEDS = ("/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret")


@dataclass(frozen=True)
class PasswdLine:
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


def accounts_of(content: bytes) -> tuple[PasswdLine, ...]:
    """The accounts of a passwd file; invalid lines are skipped. No I/O."""
    accounts = []
    for line in content.decode("utf-8", "replace").split("\n"):
        fields = line.split(":")
        if len(fields) == 7 and all(_number(field) for field in fields[2:4]):
            name, _, uid, gid, _, home, shell = fields
            accounts.append(PasswdLine(name, int(uid), int(gid), home, shell))
    return tuple(accounts)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def account(reader: BaseReader) -> PasswdLine | None:
    """The first account with UID 1000, as the C library finds it; None if it does not exist."""
    accounts = accounts_of(reader.read("/etc/passwd") or b"")
    return next((line for line in accounts if line.uid == USER_ID), None)


def home_of(user: PasswdLine | None) -> str:
    """The home of the account for overlays; the home of a fresh image if the account has no usable home."""
    home = posixpath.normpath(user.home) if user else HOME
    plain = home.startswith("/") and home.isprintable() and "\\" not in home and ".." not in home.split("/")
    return home if plain and home not in ("/", "//") and len(home) < 256 else HOME


def examine(reader: BaseReader, release: Release) -> Iterator[Finding]:
    """The findings about the account, sshd, and the identity of the machine."""
    yield from _account(reader)
    yield from _sshd(reader)
    yield from _identity(reader, release)


def _account(reader: BaseReader) -> Iterator[Finding]:
    user = account(reader)
    if user is None:
        yield Finding(
            "no-account",
            f"no account has UID {USER_ID}: login to a node would be impossible",
            "create one in the base image (useradd --uid 1000 --create-home pi); any name will do",
        )
        return
    home, name = home_of(user), printable(user.name)
    resolved = reader.resolve(home)
    if home != posixpath.normpath(user.home) or resolved is None or resolved[1].kind != "directory":
        yield Finding(
            "no-home",
            f"the account with UID {USER_ID}, {name}, has no home: {printable(user.home)} is not a folder",
            "create the folder in the base image, and make the account its owner",
        )
    elif home != HOME:
        yield Finding(
            "home",
            f"the account with UID {USER_ID} is {name}, with the home {home}",
            f"files of layers for {HOME} are put there; the first boot renames the account",
        )


def _sshd(reader: BaseReader) -> Iterator[Finding]:
    reason = absent(reader, "ssh.service", "/usr/sbin/sshd")
    if reason:
        yield Finding(
            "sshd",
            f"{reason}: login to a node would be impossible",
            "install openssh-server in the base image, and unmask ssh.service there",
        )


def _identity(reader: BaseReader, release: Release) -> Iterator[Finding]:
    """The findings about data that machines must not share (systemd.io/BUILDING_IMAGES).

    systemd also takes the machine id from D-Bus's copy, if it exists (systemd-machine-id-setup(1)).
    """
    entries = []
    exists = reader.stat("/etc/machine-id")
    content = (reader.read("/etc/machine-id") or b"") if exists else b""
    if content.strip() not in (b"", b"uninitialized"):
        entries.append(rewriting(_ROOT, "/etc/machine-id", release.facts.machine_id, 0o444))
    copy = reader.stat("/var/lib/dbus/machine-id")
    if copy is not None and copy.kind == "regular" and copy.size:
        entries.append(removal(_ROOT, "/var/lib/dbus/machine-id"))
    if entries:
        yield Finding(
            "machine-id",
            "it has a machine id, as it was booted before: all nodes would share the id",
            "removed from each node image, so that each node generates its own",
            tuple(entries),
        )
    seeds = [path for path in _SEEDS if reader.stat(path)]
    if seeds:
        yield Finding(
            "random-seed",
            f"it contains random seeds, which machines must not share: {', '.join(seeds)}",
            "removed from each node image",
            tuple(removal(_ROOT, path) for path in seeds),
        )
