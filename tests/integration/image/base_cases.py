"""Real faults of base images, by the finding they must give: what makes a copy of a specimen have each."""

import re
import subprocess
from pathlib import Path

from tests.integration.image.base_network_cases import NETWORK_CASES, PROFILES, UNIT, profile
from tests.integration.image.making import write_table
from tests.integration.image.spoiling import (
    Spoil,
    boot_edit,
    boot_file,
    cut,
    debugfs,
    field,
    in_order,
    overwritten,
    root_edit,
    root_file,
    root_gone,
    root_link,
    settle,
    words,
)
from tests.support import judge


def mkfs(*options: str) -> Spoil:
    """Make the boot partition's file system anew, with what stands in it."""

    def spoil(image: Path) -> None:
        where = judge.places(image)
        line = judge.on_boot(image, "/cmdline.txt")
        place = ["--offset", str(where.boot // 512), str(image), str(where.boot_size // 1024)]
        judge.said("mkfs.fat", *options, *place)
        subprocess.run(
            ["mcopy", "-i", f"{image}@@{where.boot}", "-", "::cmdline.txt"], input=line, check=False
        )

    return spoil


def one_partition(image: Path) -> None:
    judge.said("sfdisk", "-q", "--delete", image, "2")


def small_root_partition(image: Path) -> None:
    """The table ends the root partition 64 MiB before its file system does."""
    where = judge.places(image)
    rows = [(where.boot, where.boot_size, "c"), (where.root, where.root_size - (64 << 20), "83")]
    slices = "".join(f"start={at // 512},size={size // 512},type={kind}\n" for at, size, kind in rows)
    write_table(image, slices, judge.disk_id(image))


def full(image: Path) -> None:
    """Fill the root partition but for a few MiB."""
    root_file("/opt/much", b"\1" * (170 << 20))(image)
    settle(image)


def full_of_files(image: Path) -> None:
    """Use all inodes of the root partition but for some hundreds."""
    root_file("/opt/x", "")(image)
    debugfs(image, *(f"symlink /opt/{number} x" for number in range(15000)))
    settle(image)


def unknown_feature(image: Path) -> None:
    root = judge.places(image).root
    with image.open("rb") as stream:
        stream.seek(root + 1024 + 0x60)
        value = int.from_bytes(stream.read(4), "little") | 1 << 30
    field("feature_incompat", f"{value:#x}")(image)


def other_home(image: Path) -> None:
    root_edit(
        "/etc/passwd",
        lambda text: text.replace(b"pi:x:1000:1000:,,,:/home/pi:", b"al:x:1000:1000::/home/al:"),
    )(image)
    debugfs(image, "mkdir /home/al", "sif /home/al uid 1000", "sif /home/al gid 1000")
    settle(image)


CASES: dict[str, tuple[tuple[str, str, Spoil], ...]] = {
    "layout": (("bookworm", "1 partition instead of two", one_partition),),
    "cut-short": (("bookworm", "cut short", cut),),
    "boot-damaged": (("bookworm", "boot partition", overwritten("boot", 0, 4096)),),
    "boot-mtools": (("bullseye", "FAT32 of only", mkfs("-F", "32", "-s", "32")),),
    "root-damaged": (
        ("bookworm", "is damaged", overwritten("root", 4096, 64 << 10)),
        ("bookworm", "is damaged", overwritten("root", 0, 8192)),
    ),
    "root-features": (("bookworm", "FEATURE_I30", unknown_feature),),
    "root-larger": (("bookworm", "larger than the root partition", small_root_partition),),
    "journal": (("bookworm", "not unmounted", lambda image: debugfs(image, "feature needs_recovery")),),
    "free-counts": (
        ("bookworm", "wrong counts of free", field("free_blocks_count", "100")),
        ("bookworm", "wrong counts of free", field("free_blocks_count", "999999999")),
        ("bookworm", "wrong counts of free", field("free_inodes_count", "7")),
    ),
    "not-clean": (
        ("bookworm", "marked as not clean", field("state", "0")),
        ("bookworm", "marked as clean with errors", field("state", "3")),
    ),
    "release": (
        ("bookworm", "not Raspberry Pi OS", root_gone("/usr/lib/os-release")),
        (
            "bookworm",
            "does not know",
            root_edit("/usr/lib/os-release", lambda text: text.replace(b"bookworm", b"sid")),
        ),
    ),
    "unreadable": (
        ("bookworm", "/etc/fstab is not a file", root_link("/etc/fstab", "/etc")),
        (
            "bookworm",
            "/etc/passwd has more",
            lambda image: debugfs(image, "sif /etc/passwd size 3000000000000"),
        ),
    ),
    "command-line": (
        ("bookworm", "not a single line", boot_edit("cmdline.txt", lambda line: line + b"more words\n")),
        ("bookworm", "not a single line", boot_file("cmdline.txt", "")),
    ),
    "root-name": (
        ("bookworm", "has no root=", boot_edit("cmdline.txt", lambda line: re.sub(rb"root=\S+", b"", line))),
        ("bookworm", "root=LABEL=mine", words("root=LABEL=mine")),
        ("bookworm", "root=/dev/mmcblk0p3", words("root=/dev/mmcblk0p3")),
        ("bookworm", "root=PARTUUID=5b0012aa-01", words("root=PARTUUID=5b0012aa-01")),
        (
            "bookworm",
            "mounts UUID=1234 at /",
            root_edit("/etc/fstab", lambda t: t.replace(b"PARTUUID=5b0012aa-02", b"UUID=1234")),
        ),
    ),
    "disk-id": (
        (
            "bookworm",
            "cmdline.txt names 5b0012aa and fstab names 5b0012aa",
            lambda image: judge.said("sfdisk", "-q", "--disk-id", image, "0xdeadbeef"),
        ),
        (
            "trixie",
            "but fstab names 00000001",
            root_edit("/etc/fstab", lambda text: re.sub(rb"=[0-9a-f]{8}-", b"=00000001-", text)),
        ),
        (
            "bullseye",
            "but cmdline.txt names 00000001",
            boot_edit("cmdline.txt", lambda line: line.replace(b"3e1e1a11", b"00000001")),
        ),
    ),
    "fstab-missing": (
        (
            "bookworm",
            "does not mount the root",
            root_file("/etc/fstab", "PARTUUID=5b0012aa-01 /boot/firmware vfat defaults 0 2\n"),
        ),
        (
            "bookworm",
            "does not mount the boot",
            root_file("/etc/fstab", "PARTUUID=5b0012aa-02 / ext4 defaults 0 1\n"),
        ),
        ("bookworm", "does not mount the root", root_gone("/etc/fstab")),
    ),
    "fstab-device": (
        (
            "bookworm",
            "mounts /dev/sda1 at /data",
            root_edit("/etc/fstab", lambda text: text + b"/dev/sda1 /data ext4 defaults 0 2\n"),
        ),
        (
            "bookworm",
            "mounts UUID=ab at /my data",
            root_edit("/etc/fstab", lambda text: text + b"UUID=ab /my\\040data auto\n"),
        ),
    ),
    "no-growth": (
        (
            "bookworm",
            "add the word init=",
            boot_edit("cmdline.txt", lambda line: re.sub(rb"init=\S+", b"", line)),
        ),
        (
            "trixie",
            "add the word resize",
            boot_edit("cmdline.txt", lambda line: line.replace(b" resize", b"")),
        ),
    ),
    "no-account": (
        (
            "bookworm",
            "no account has UID 1000",
            root_edit("/etc/passwd", lambda text: re.sub(rb"pi:x:1000.*\n", b"", text)),
        ),
        ("bookworm", "no account has UID 1000", root_file("/etc/passwd", b"\xff\0:::\n")),
    ),
    "no-home": (
        (
            "bookworm",
            "/home/none",
            root_edit("/etc/passwd", lambda text: text.replace(b":/home/pi:", b":/home/none:")),
        ),
        (
            "bookworm",
            "../etc",
            root_edit("/etc/passwd", lambda text: text.replace(b":/home/pi:", b":../etc:")),
        ),
    ),
    "home": (("bookworm", "is al, with the home /home/al", other_home),),
    "sshd": (
        ("bookworm", "ssh.service is masked", root_link("/etc/systemd/system/ssh.service", "/dev/null")),
        ("bullseye", "ssh.service is masked", root_file("/etc/systemd/system/ssh.service", "")),
        ("trixie", "ssh.service is missing", root_gone(f"{UNIT}/ssh.service")),
        ("bookworm", "/usr/sbin/sshd is missing", root_gone("/usr/sbin/sshd")),
    ),
    **NETWORK_CASES,
    "machine-id": (
        (
            "bookworm",
            "has a machine id",
            root_file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444),
        ),
        (
            "trixie",
            "has a machine id",
            root_file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444),
        ),
        (
            "bullseye",
            "has a machine id",
            root_file("/var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ),
    ),
    "random-seed": (
        ("bookworm", "/var/lib/systemd/random-seed", root_file("/var/lib/systemd/random-seed", b"x" * 512)),
    ),
    "imager": (
        (
            "bookworm",
            "custom.toml, FIRSTRUN.SH",
            in_order(
                boot_file("custom.toml", "config_version = 1\n"), boot_file("FIRSTRUN.SH", "#!/bin/bash\n")
            ),
        ),
        ("trixie", "rpi-preseed.toml", boot_file("rpi-preseed.toml", "[system]\n")),
        ("bullseye", "wpa_supplicant.conf", boot_file("wpa_supplicant.conf", "network={}\n")),
    ),
    "imager-words": (
        (
            "bookworm",
            "systemd.run=/boot/firstrun.sh",
            words(
                "systemd.run=/boot/firstrun.sh",
                "systemd.run_success_action=reboot",
                "systemd.unit=kernel-command-line.target",
            ),
        ),
        ("trixie", "ds=nocloud;i=old", words("ds=nocloud;i=old")),
    ),
    "cloud-init": (
        (
            "trixie",
            "user-data",
            boot_file("user-data", "#cloud-config\nhostname: other\nuser:\n  name: al\n"),
        ),
        (
            "trixie",
            "network-config",
            boot_file("network-config", "network:\n  version: 2\n  wifis:\n    wlan0: {}\n"),
        ),
    ),
    "node-image": (
        ("bookworm", "worker2 of mine", boot_file("piimg.json", '{"node": "worker2", "cluster": "mine"}')),
    ),
    "no-room": (("bookworm", "almost full", full), ("bookworm", "inodes are free", full_of_files)),
}
"""By finding: a release, words of the sentence or of what to do, and what makes an image have it."""


HARMLESS: dict[str, tuple[str, Spoil]] = {
    "root by device": (
        "bookworm",
        boot_edit("cmdline.txt", lambda line: re.sub(rb"root=\S+", b"root=/dev/mmcblk0p2", line)),
    ),
    "root by label": (
        "bookworm",
        boot_edit("cmdline.txt", lambda line: re.sub(rb"root=\S+", b"root=LABEL=rootfs", line)),
    ),
    "disk id in upper case": (
        "bookworm",
        boot_edit("cmdline.txt", lambda line: line.replace(b"5b0012aa", b"5B0012AA")),
    ),
    "a disk that need not be there": (
        "bookworm",
        root_edit("/etc/fstab", lambda text: text + b"/dev/sda1 /data ext4 nofail 0 2\n"),
    ),
    "a profile of another interface": (
        "bookworm",
        root_file(f"{PROFILES}/usb", profile(type="ethernet", interface_name="usb0"), 0o600),
    ),
    "a profile that waits to be called": (
        "bookworm",
        root_file(f"{PROFILES}/x", profile(type="wifi", autoconnect="false"), 0o600),
    ),
    "a netplan file of another interface": (
        "trixie",
        root_file("/etc/netplan/20-usb.yaml", "network: {ethernets: {eth1: {dhcp4: yes}}}\n", 0o600),
    ),
    "a netplan file that sets up nothing": (
        "trixie",
        root_file("/etc/netplan/00.yaml", "network: {renderer: NetworkManager}\n", 0o600),
    ),
    "a vpn": ("bookworm", root_file(f"{PROFILES}/vpn", profile(type="vpn"), 0o600)),
    "the loopback of ifupdown": (
        "bookworm",
        root_file(
            "/etc/network/interfaces", "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n"
        ),
    ),
    "a block of another interface": (
        "bullseye",
        root_edit("/etc/dhcpcd.conf", lambda text: text + b"interface usb0\nnolink\n", 0o664),
    ),
    "a udev rule of something else": (
        "bookworm",
        root_file(
            "/etc/udev/rules.d/99-com.rules",
            'SUBSYSTEM=="tty", NAME="x"\nSUBSYSTEM=="net", NAME=="eth0", RUN+="/bin/true"\n',
        ),
    ),
    "predictable names off": ("bookworm", root_link("/etc/systemd/network/99-default.link", "/dev/null")),
    "the images' own user-data": (
        "trixie",
        boot_file("user-data", "#cloud-config\n\nssh_pwauth: false\n#users:\n#- name: x\n"),
    ),
}
"""What a base image may well have: a release, and what makes an image have it."""
