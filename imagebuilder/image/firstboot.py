"""Changes that the first boot of Raspberry Pi OS makes to files of an overlay.

They are expected, so a booted card with them has not drifted. Each rule names the program and its change.
Sources: raspberrypi-sys-mods (sshswitch, firstboot, regenerate_ssh_host_keys, the initramfs scripts
resize_early and set_partuuid), userconf-pi, piimg's own scripts in ``overlays/``, systemd-rfkill(8),
NetworkManager(8).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from imagebuilder.model import HOME, Partition


class Change(StrEnum):
    """The kind of change of a path."""

    GONE = "gone"  # read once, then deleted
    MOVED = "moved"  # with the home of the account, when the account was renamed
    OWN = "the machine's own"  # rewritten by the machine: not compared
    STORED = "stored"  # elsewhere, in another format of NetworkManager: the settings are compared
    EDITED = "edited"  # compared after ``Rule.same`` has removed the edited parts from both


@dataclass(frozen=True)
class Rule:
    """A change by the first boot: paths (an fnmatch pattern), kind of change, and reason.

    ``same`` returns the part of a file's content, or of a link's target, that must not change.
    """

    partition: Partition
    pattern: str
    change: Change
    reason: str
    same: Callable[[bytes], bytes] = bytes


CONSUMED = re.compile(rb"resize|quiet|init=\S*/(?:firstboot|init_resize\.sh)")
"""The words that the first boot removes from cmdline.txt."""

_PARTUUID = re.compile(rb"PARTUUID=[0-9a-fA-F]{8}-")


def without_partuuids(content: bytes) -> bytes:
    """Fstab without the disk id, which the first boot regenerates."""
    return _PARTUUID.sub(b"PARTUUID=*-", content)


def settled_command_line(content: bytes) -> bytes:
    """cmdline.txt without the disk id and without the words that the first boot removes."""
    words = without_partuuids(content).split()
    return b" ".join(word for word in words if not CONSUMED.fullmatch(word))


def merged_usr(target: bytes) -> bytes:
    """The target of a link to a unit, with /usr/lib for /lib, which is the same folder."""
    return b"/usr" + target if target.startswith(b"/lib/") else target


_BOOT, _ROOT = Partition.BOOT, Partition.ROOT
_SSH = "sshswitch enables sshd because of this file, and deletes it"
_USERCONF = (
    "userconfig.service or piimg's 05-account renames UID 1000, sets its password and deletes the file"
)
_RENAMED = "userconf writes the new name of UID 1000 into it"

RULES = (
    Rule(_BOOT, "/ssh", Change.GONE, _SSH),
    Rule(_BOOT, "/ssh.txt", Change.GONE, _SSH),
    Rule(_BOOT, "/userconf", Change.GONE, _USERCONF),
    Rule(_BOOT, "/userconf.txt", Change.GONE, _USERCONF),
    Rule(
        _BOOT,
        "/cmdline.txt",
        Change.EDITED,
        "firstboot or set_partuuid writes the new disk id, and removes resize, quiet and init=",
        settled_command_line,
    ),
    Rule(
        _ROOT,
        "/etc/fstab",
        Change.EDITED,
        "firstboot or set_partuuid writes the new disk id",
        without_partuuids,
    ),
    Rule(
        _ROOT,
        "/etc/systemd/system/*.wants/ssh.service",
        Change.EDITED,
        "sshswitch enables ssh again, and systemctl may link the unit as /lib/… or /usr/lib/…",
        merged_usr,
    ),
    Rule(_ROOT, HOME, Change.MOVED, "userconf renames UID 1000 and moves its home"),
    Rule(_ROOT, f"{HOME}/*", Change.MOVED, "userconf renames UID 1000 and moves its home"),
    Rule(
        _ROOT,
        "/etc/ssh/ssh_host_*",
        Change.OWN,
        "regenerate_ssh_host_keys deletes the keys of the image and generates new ones",
    ),
    Rule(_ROOT, "/etc/subuid", Change.OWN, _RENAMED),
    Rule(_ROOT, "/etc/subgid", Change.OWN, _RENAMED),
    Rule(_ROOT, "/etc/sudoers.d/010_pi-nopasswd", Change.OWN, _RENAMED),
    *(
        Rule(_ROOT, path, Change.OWN, "each machine generates its own on its first boot")
        for path in (
            "/etc/machine-id",
            "/var/lib/dbus/machine-id",
            "/var/lib/systemd/random-seed",
            "/var/lib/systemd/credential.secret",
        )
    ),
    Rule(
        _ROOT,
        "/etc/NetworkManager/system-connections/*",
        Change.STORED,
        "nmcli, or an upgrade of NetworkManager on Trixie, moves a profile to /etc/netplan/90-NM-UUID.yaml",
    ),
    Rule(
        _ROOT,
        "/var/lib/NetworkManager/NetworkManager.state",
        Change.OWN,
        "NetworkManager stores there which radios are on; the overlay sets the initial state",
    ),
    Rule(
        _ROOT,
        "/var/lib/systemd/rfkill/*",
        Change.OWN,
        "systemd-rfkill stores there which radios are blocked; the overlay sets the initial state",
    ),
)


def rule_for(partition: Partition, path: str, home: str = HOME) -> Rule | None:
    """The rule for a path of an overlay; None if the first boot does not change it. No I/O.

    Paths of the boot partition are matched without case, as on FAT. ``home`` is the home of UID 1000.
    """
    name = path.lower() if partition is Partition.BOOT else path
    if partition is Partition.ROOT and f"{path}/".startswith(f"{home}/"):
        name = HOME + path.removeprefix(home)
    matching = (rule for rule in RULES if rule.partition is partition and fnmatchcase(name, rule.pattern))
    return next(matching, None)


def account(userconf: bytes | None) -> str:
    """The name of UID 1000 by ``userconf.txt``; ``pi`` if that is missing or invalid. No I/O."""
    first = (userconf or b"").partition(b"\n")[0]
    name = first.partition(b":")[0].decode("ascii", "replace")
    return name if re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name) else "pi"
