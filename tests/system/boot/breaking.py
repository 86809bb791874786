"""Ways to spoil a node image of bookworm, one for each check: the image is changed, nothing else."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from imagebuilder.image.partitions import boot_and_root, read_table
from imagebuilder.image.tree import BootTree
from imagebuilder.system import mount

KEYFILE = "etc/NetworkManager/system-connections/piimg-lan.nmconnection"
SYSTEM = "usr/lib/systemd/system"
MTIME = 1764000000


@dataclass(frozen=True)
class Image:
    """A node image opened for spoiling: its root partition mounted at ``root``, and its boot partition."""

    node: str
    root: Path
    boot: BootTree

    def edit(self, path: str, pattern: str, replacement: str) -> None:
        """Change a file; the pattern must match."""
        file = self.root / path
        assert not file.is_symlink(), path  # an absolute one would lead out of the image
        text, count = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
        assert count, f"{path}: {pattern}"
        file.write_text(text)

    def append(self, path: str, line: str) -> None:
        """Add a line to a file that is there."""
        file = self.root / path
        assert file.exists(), path
        with file.open("a") as stream:
            stream.write(f"{line}\n")

    def edit_boot(self, path: str, pattern: str, replacement: str) -> None:
        """Change a file of the boot partition; the pattern must match."""
        text, count = re.subn(pattern, replacement, (self.boot.read(path) or b"").decode())
        assert count, f"{path}: {pattern}"
        self.boot.rewrite(path, text.encode(), MTIME)

    def unit(self, name: str, script: str, after: str = "multi-user.target", kind: str = "simple") -> None:
        """A service of the base's own that runs a shell script at every boot; ``kind`` is its Type=."""
        program = self.root / "usr/lib" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        text = f"[Unit]\nAfter={after}\n[Service]\nType={kind}\nExecStart=/usr/lib/{name}\n"
        (self.root / SYSTEM / f"{name}.service").write_text(text)
        wants = self.root / "etc/systemd/system/multi-user.target.wants"
        (wants / f"{name}.service").symlink_to(f"/{SYSTEM}/{name}.service")


@contextmanager
def opened(node: str, image: Path) -> Iterator[Image]:
    """A node image to spoil."""
    boot, root = boot_and_root(read_table(image))
    with mount.ext4(image, root.start, root.size) as point:
        yield Image(node, point, BootTree(image, boot.start))


Spoil = Callable[[Image], None]


def _lend_address(image: Image) -> None:
    """As a DHCP client leaves it: an address for a time. NetworkManager fixes it, so it is done again."""
    script = """while sleep 1; do
        has=$(ip -4 -o address show dev eth0 primary | head -n 1 | tr -s ' ' | cut -d ' ' -f 4)
        [ -z "$has" ] || ip address change "$has" dev eth0 valid_lft 86400 preferred_lft 86400
    done"""
    image.unit("lend-address", script)


def _timezone(image: Image) -> None:
    link = image.root / "etc/localtime"
    link.unlink()
    link.symlink_to("/usr/share/zoneinfo/Europe/Paris")


def _resize_nothing(image: Image) -> None:
    """The partition grows, its file system does not."""
    tool = image.root / "usr/sbin/resize2fs"
    tool.unlink()
    tool.symlink_to("/bin/true")


def _fail_script(image: Image) -> None:
    script = image.root / "usr/local/lib/piimg/firstboot.d/50-hello"
    assert script.exists()
    script.write_text("#!/bin/sh\n# retries: 0\necho the disk is full\nexit 1\n")


def _distrust(image: Image) -> None:
    """The first-boot script does nothing, and succeeds."""
    script = image.root / "usr/local/lib/piimg/firstboot.d/07-ca-certificates"
    assert script.exists()
    script.write_text("#!/bin/sh\n")


SPOILS: Mapping[str, Spoil] = {
    "manifest": lambda image: image.edit_boot("/piimg.json", '("manifest": ")[0-9a-f]{8}', r"\g<1>00000000"),
    "hostname": lambda image: image.edit("etc/hostname", r".+", "raspberrypi"),
    "address": lambda image: image.edit(KEYFILE, r"^(address1=10\..*)$", r"\1\naddress2=10.0.0.99/24"),
    "mask": lambda image: image.edit(KEYFILE, r"^(address1=[0-9.]+)/24", r"\1/16"),
    "static": _lend_address,
    "route": lambda image: image.edit(KEYFILE, r"^(address1=[0-9./]+),10\.0\.0\.1$", r"\1,10.0.0.2"),
    "ipv6": lambda image: image.edit(KEYFILE, r"^(address1=fd.*)$", r"\1\naddress2=fd12:3456:789a:1::99/64"),
    "dns": lambda image: image.edit(KEYFILE, r"^dns=.*$", "dns=8.8.8.8;"),
    "hosts": lambda image: image.append("etc/hosts", f"127.0.1.1 {image.node}"),
    "user": lambda image: image.edit("etc/group", r"^(sudo:x:[0-9]+:)pi$", r"\1"),
    "password": lambda image: image.edit_boot("/userconf.txt", r"\A(pi:).*", r"\1!"),
    "keys": lambda image: image.append("home/pi/.ssh/authorized_keys", STRANGER),
    "accounts": lambda image: image.edit("etc/piimg/accounts", "^account anna 1001 ", "account anna 1009 "),
    "password-login": lambda image: image.edit(
        "etc/ssh/sshd_config.d/10-piimg.conf", "PasswordAuthentication no", "PasswordAuthentication yes"
    ),
    "ssh-port": lambda image: image.append("etc/ssh/sshd_config", "Port 22\nPort 2222"),
    "host-key": lambda image: image.append(
        "etc/ssh/sshd_config.d/10-piimg.conf", "HostKey /etc/ssh/ssh_host_ecdsa_key"
    ),
    "known-hosts": lambda image: image.edit(
        "etc/ssh/ssh_known_hosts", r"^master,(.*) root@", r"master,\1A root@"
    ),
    "machine-id": lambda image: image.unit(
        "forget-machine-id", "umount /etc/machine-id; echo uninitialized >/etc/machine-id"
    ),
    "disk-id": lambda image: image.edit(
        "usr/lib/raspberrypi-sys-mods/firstboot", r"^\tdd if=/dev/urandom .*$", ""
    ),
    "grown": _resize_nothing,
    "consumed": lambda image: image.unit("leave-a-file", "touch /boot/firmware/ssh.txt"),
    "modes": lambda image: (image.root / "etc/piimg/gateway_key").chmod(0o644),
    "time": lambda image: image.edit(
        "etc/systemd/timesyncd.conf.d/10-piimg.conf", r"^NTP=.*$", "NTP=192.0.2.1"
    ),
    "timezone": _timezone,
    "locale": lambda image: image.edit("etc/default/locale", r"^LANG=.*$", "LANG=C.UTF-8"),
    "keyboard": lambda image: image.edit("etc/default/keyboard", r"^XKBLAYOUT=.*$", 'XKBLAYOUT="us"'),
    "swap": lambda image: image.unit(
        "own-swap",
        "fallocate -l 16M /var/own-swap && mkswap /var/own-swap && swapon /var/own-swap",
        "local-fs.target",
        "oneshot",
    ),
    "mounts": lambda image: image.edit("etc/fstab", "^tmpfs /srv/scratch .*", ""),
    "ca-certificates": _distrust,
    "journal": lambda image: image.edit(
        "etc/systemd/journald.conf.d/90-piimg.conf", "persistent", "volatile"
    ),
    "first-boot": _fail_script,
    "packages": lambda image: image.edit(
        "var/lib/dpkg/status",
        r"^(Package: tree\nStatus: )install ok installed$",
        r"\1install ok half-configured",
    ),
    "services": lambda image: image.edit("etc/systemd/system/thermometer.service", "/bin/true", "/bin/false"),
}
"""By the check that is to find it. All leave the node one that can be logged in to."""

STRANGER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDZHCS8U8FuNvIKxcYCtIKrSWch0egb+xXpISRy44U33 eve@elsewhere"


def add_stranger_unit(image: Image) -> None:
    """A unit of nobody's that fails, as one would that misses its hardware in emulation."""
    image.unit("no-such-hardware", "exit 1")


def shares(names: Mapping[str, Spoil], boots: int, each: int) -> list[frozenset[str]]:
    """Which spoils go into which of ``boots`` images: each into ``each``, and no two into the same ones.

    As every one is in the same number of images, none is in all that another is in. So when each check fails
    in exactly the images that its own spoil is in, no other spoil, and no two of them, can have made it fail.
    """
    places = dict(zip(names, combinations(range(boots), each), strict=False))
    assert places.keys() == names.keys(), f"{len(names)} spoils need more than {boots} images"
    return [frozenset(name for name, at in places.items() if boot in at) for boot in range(boots)]
