"""What the first boot of Raspberry Pi OS changes on purpose in files that an overlay may have put there.

One table, so that a card that was in its machine is not said to have drifted from what it should hold. Each
rule says who changes what. Sources: raspberrypi-sys-mods (sshswitch, firstboot, regenerate_ssh_host_keys, the
initramfs scripts resize_early and set_partuuid), userconf-pi, piimg's own scripts in ``overlays/``,
systemd-rfkill(8), NetworkManager(8).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from imagebuilder.model import HOME, Partition


class Change(StrEnum):
    """What may have become of a path."""

    GONE = "gone"  # read once, then deleted
    MOVED = "moved"  # with the home of the account, when that got its name
    OWN = "the machine's own"  # written anew by the machine: not compared at all
    STORED = "stored"  # in NetworkManager's own way, in another place: what it says is compared
    EDITED = "edited"  # compared after ``Rule.same`` has taken out of both what the first boot edits


@dataclass(frozen=True)
class Rule:
    """One change of the first boot: which paths (a pattern of fnmatch), what, and by whom.

    ``same`` is given a file's content, or a link's target, and leaves of it what must not change.
    """

    partition: Partition
    pattern: str
    change: Change
    reason: str
    same: Callable[[bytes], bytes] = bytes


CONSUMED = re.compile(rb"resize|quiet|init=\S*/(?:firstboot|init_resize\.sh)")
"""The words that the first boot takes out of cmdline.txt."""

_PARTUUID = re.compile(rb"PARTUUID=[0-9a-fA-F]{8}-")


def without_partuuids(content: bytes) -> bytes:
    """Fstab without the disk id, which the first boot draws anew."""
    return _PARTUUID.sub(b"PARTUUID=*-", content)


def settled_command_line(content: bytes) -> bytes:
    """cmdline.txt without the disk id and without the words that the first boot takes out."""
    words = without_partuuids(content).split()
    return b" ".join(word for word in words if not CONSUMED.fullmatch(word))


def merged_usr(target: bytes) -> bytes:
    """The target of a link to a unit, by one of its two names: /lib is /usr/lib."""
    return b"/usr" + target if target.startswith(b"/lib/") else target


_BOOT, _ROOT = Partition.BOOT, Partition.ROOT
_SSH = "sshswitch takes it as a wish, enables sshd and deletes it"
_USERCONF = "userconfig.service, or our 05-account, names UID 1000 by it, sets the password and deletes it"
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
        "firstboot or set_partuuid put the new disk id in, and take resize, quiet and init= out",
        settled_command_line,
    ),
    Rule(
        _ROOT,
        "/etc/fstab",
        Change.EDITED,
        "firstboot or set_partuuid put the new disk id in",
        without_partuuids,
    ),
    Rule(
        _ROOT,
        "/etc/systemd/system/*.wants/ssh.service",
        Change.EDITED,
        "sshswitch enables ssh anew, and systemctl may call the unit /lib/… or /usr/lib/…",
        merged_usr,
    ),
    Rule(_ROOT, HOME, Change.MOVED, "userconf renames UID 1000 and moves its home"),
    Rule(_ROOT, f"{HOME}/*", Change.MOVED, "userconf renames UID 1000 and moves its home"),
    Rule(
        _ROOT,
        "/etc/ssh/ssh_host_*",
        Change.OWN,
        "regenerate_ssh_host_keys deletes those of the image and makes the machine its own",
    ),
    Rule(_ROOT, "/etc/subuid", Change.OWN, _RENAMED),
    Rule(_ROOT, "/etc/subgid", Change.OWN, _RENAMED),
    Rule(_ROOT, "/etc/sudoers.d/010_pi-nopasswd", Change.OWN, _RENAMED),
    *(
        Rule(_ROOT, path, Change.OWN, "each machine makes its own on its first boot")
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
        "NetworkManager keeps there which radios are on; ours is where it starts from",
    ),
    Rule(
        _ROOT,
        "/var/lib/systemd/rfkill/*",
        Change.OWN,
        "systemd-rfkill saves there which radios are blocked; ours is where it starts from",
    ),
)


def rule_for(partition: Partition, path: str, home: str = HOME) -> Rule | None:
    """The rule for a path of an overlay, if the first boot has any business with it. Pure.

    FAT knows no case, and neither do the rules for the boot partition. ``home`` is that of UID 1000.
    """
    name = path.lower() if partition is Partition.BOOT else path
    if partition is Partition.ROOT and f"{path}/".startswith(f"{home}/"):
        name = HOME + path.removeprefix(home)
    found = (one for one in RULES if one.partition is partition and fnmatchcase(name, one.pattern))
    return next(found, None)


def account(userconf: bytes | None) -> str:
    """The name UID 1000 gets by ``userconf.txt``; ``pi`` without one, or one nobody would heed. Pure."""
    first = (userconf or b"").partition(b"\n")[0]
    name = first.partition(b":")[0].decode("ascii", "replace")
    return name if re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name) else "pi"
