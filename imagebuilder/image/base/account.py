"""Could anybody log in to a node of this base image, and is it its own machine? Account, sshd, machine-id."""

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
    """The accounts of a passwd file; what is no line of one is passed over. Pure."""
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
    """The first account with UID 1000, which is the one that the C library finds; None without one."""
    found = accounts_of(reader.read("/etc/passwd") or b"")
    return next((one for one in found if one.uid == USER_ID), None)


def home_of(one: PasswdLine | None) -> str:
    """The home of the account, as overlays may use it; that of a fresh image when it has none of use."""
    home = posixpath.normpath(one.home) if one else HOME
    plain = home.startswith("/") and home.isprintable() and "\\" not in home and ".." not in home.split("/")
    return home if plain and home not in ("/", "//") and len(home) < 256 else HOME


def examine(reader: BaseReader, release: Release) -> Iterator[Finding]:
    """The findings of the account, of sshd, and of what each machine must have for itself."""
    yield from _account(reader)
    yield from _sshd(reader)
    yield from _identity(reader, release)


def _account(reader: BaseReader) -> Iterator[Finding]:
    one = account(reader)
    if one is None:
        yield Finding(
            "no-account",
            f"no account has UID {USER_ID}: nobody could log in to a node",
            "make one in the base image (useradd --uid 1000 --create-home pi); its name is of no account",
        )
        return
    home, name = home_of(one), printable(one.name)
    led = reader.resolve(home)
    if home != posixpath.normpath(one.home) or led is None or led[1].kind != "directory":
        yield Finding(
            "no-home",
            f"the account with UID {USER_ID}, {name}, has no home: {printable(one.home)} is not a folder",
            "make the folder in the base image, and give it to the account",
        )
    elif home != HOME:
        yield Finding(
            "home",
            f"the account with UID {USER_ID} is {name}, and lives in {home}",
            f"what layers have for {HOME} goes there; the first boot gives the account the manifest's name",
        )


def _sshd(reader: BaseReader) -> Iterator[Finding]:
    said = absent(reader, "ssh.service", "/usr/sbin/sshd")
    if said:
        yield Finding(
            "sshd",
            f"{said}: nobody could log in to a node",
            "install openssh-server in the base image, and unmask ssh.service there",
        )


def _identity(reader: BaseReader, release: Release) -> Iterator[Finding]:
    """What no two machines may share (systemd.io/BUILDING_IMAGES).

    The machine's id is also made from D-Bus's copy, where there is one (systemd-machine-id-setup(1)).
    """
    entries = []
    found = reader.stat("/etc/machine-id")
    content = (reader.read("/etc/machine-id") or b"") if found else b""
    if content.strip() not in (b"", b"uninitialized"):
        entries.append(rewriting(_ROOT, "/etc/machine-id", release.facts.machine_id, 0o444))
    copy = reader.stat("/var/lib/dbus/machine-id")
    if copy is not None and copy.kind == "regular" and copy.size:
        entries.append(removal(_ROOT, "/var/lib/dbus/machine-id"))
    if entries:
        yield Finding(
            "machine-id",
            "it has a machine id: it was started before, and all nodes would be one machine",
            "taken out of each node image, so that each node makes its own",
            tuple(entries),
        )
    seeds = [path for path in _SEEDS if reader.stat(path)]
    if seeds:
        yield Finding(
            "random-seed",
            f"it holds random numbers that must be one machine's own: {', '.join(seeds)}",
            "taken out of each node image",
            tuple(removal(_ROOT, path) for path in seeds),
        )
