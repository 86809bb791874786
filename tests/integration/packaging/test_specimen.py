"""The specimens hold what Raspberry Pi OS Lite holds, as sfdisk, debugfs, mtools and the fscks see it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.system.process import ToolError, run
from tests.conftest import SCRIPTS, SPECIMENS

SECTOR = 512
MIB = 1 << 20

# name: first sector and sectors of the boot partition, first sector of the root partition
GEOMETRY = {
    "bullseye-2023-05": (8192, 256 * MIB // SECTOR, 532480),
    "bookworm-2024-11": (8192, 512 * MIB // SECTOR, 1056768),
    "bookworm-2025-05": (16384, 512 * MIB // SECTOR, 1064960),
    "trixie-2025-10": (16384, 512 * MIB // SECTOR, 1064960),
    "trixie-2025-12": (16384, 512 * MIB // SECTOR, 1064960),
    "trixie-2026-10": (16384, 512 * MIB // SECTOR, 1064960),
}
NEWEST = "trixie-2026-10"
FIRSTBOOT = " quiet init=/usr/lib/raspberrypi-sys-mods/firstboot"
CLOUD_INIT_SEED = {"user-data", "network-config", "meta-data"}


@dataclass(frozen=True)
class Specimen:
    """One specimen, read with other people's tools."""

    name: str
    image: Path

    @property
    def suite(self) -> str:
        return self.name.split("-")[0]

    @property
    def root(self) -> str:
        return f"{self.image}?offset={GEOMETRY[self.name][2] * SECTOR}"

    @property
    def boot(self) -> str:
        return f"{self.image}@@{GEOMETRY[self.name][0] * SECTOR}"

    def debugfs(self, command: str) -> str:
        return run(["debugfs", "-R", command, self.root]).stdout.decode()

    def read(self, path: str) -> str:
        return self.debugfs(f'cat "{path}"')

    def stat(self, path: str) -> tuple[int, int, int] | None:
        """Permission bits, uid and gid; None when there is no such path."""
        said = self.debugfs(f'stat "{path}"')
        found = re.search(r"Mode:\s+(\d+).*?User:\s+(\d+)\s+Group:\s+(\d+)", said, re.DOTALL)
        return (int(found[1], 8), int(found[2]), int(found[3])) if found else None

    def link(self, path: str) -> str | None:
        """Where a symbolic link points; None when the path is no link."""
        found = re.search(r'Fast link dest: "([^"]*)"', self.debugfs(f'stat "{path}"'))
        return found[1] if found else None

    def boot_text(self, name: str) -> str:
        return run(["mtype", "-i", self.boot, f"::{name}"]).stdout.decode()

    def boot_names(self) -> set[str]:
        listed = run(["mdir", "-b", "-i", self.boot, "::"]).stdout.decode()
        return {line.removeprefix("::/").rstrip("/") for line in listed.splitlines()}


@pytest.fixture(params=SPECIMENS)
def made(request: pytest.FixtureRequest, specimen: Callable[[str], Path]) -> Specimen:
    return Specimen(request.param, specimen(request.param))


def table(image: Path) -> Any:
    """The partition table as sfdisk reads it."""
    return json.loads(run(["sfdisk", "-J", image]).stdout)["partitiontable"]


def test_partition_table(made: Specimen) -> None:
    start, size, root_start = GEOMETRY[made.name]
    partitions = table(made.image)
    assert partitions["label"] == "dos"
    boot, root = partitions["partitions"]
    assert (boot["start"], boot["size"], boot["type"]) == (start, size, "c")
    assert (root["start"], root["type"]) == (root_start, "83")
    assert (root["start"] + root["size"]) * SECTOR == made.image.stat().st_size


def test_root_file_system(made: Specimen) -> None:
    run(["e2fsck", "-fn", made.root])
    said = run(["tune2fs", "-l", made.root]).stdout.decode()
    assert re.search(r"^Filesystem volume name: +rootfs$", said, re.MULTILINE)
    features = set(re.findall(r"^Filesystem features: +(.*)$", said, re.MULTILINE)[0].split())
    assert {"has_journal", "extent", "metadata_csum"} <= features
    assert not features & {"64bit", "huge_file"}


def test_boot_file_system(made: Specimen, tmp_path: Path) -> None:
    start, size, _ = GEOMETRY[made.name]
    partition = tmp_path / "boot"
    cut = [f"skip={start}", f"count={size}", f"bs={SECTOR}"]
    run(["dd", f"if={made.image}", f"of={partition}", "conv=sparse", *cut])
    run(["fsck.fat", "-n", partition])
    said = run(["minfo", "-i", made.boot, "::"]).stdout.decode()
    assert 'disk type="FAT32   "' in said
    assert f"cluster size: {1 if made.name == NEWEST else 4} sectors" in said
    assert "bootfs" in run(["mlabel", "-s", "-i", made.boot, "::"]).stdout.decode()


def test_root_is_named_by_the_disk_id(made: Specimen) -> None:
    disk_id = table(made.image)["id"].removeprefix("0x")
    words = [line.split() for line in made.read("/etc/fstab").splitlines()]
    mounts = {place: (source, kind) for source, place, kind, *_ in words}
    boot_mount = "/boot" if made.suite == "bullseye" else "/boot/firmware"
    assert mounts["/"] == (f"PARTUUID={disk_id}-02", "ext4")
    assert mounts[boot_mount] == (f"PARTUUID={disk_id}-01", "vfat")
    assert made.stat(boot_mount) == (0o755, 0, 0)
    assert f" root=PARTUUID={disk_id}-02 " in made.boot_text("cmdline.txt")


def test_command_line_is_one_line_with_the_right_ending(made: Specimen) -> None:
    text = made.boot_text("cmdline.txt")
    assert text.count("\n") == 1
    assert text.endswith((" resize" if made.suite == "trixie" else FIRSTBOOT) + "\n")


def test_release_can_be_reported(made: Specimen) -> None:
    assert f"VERSION_CODENAME={made.suite}\n" in made.read("/usr/lib/os-release")
    assert made.link("/etc/os-release") == "../usr/lib/os-release"
    assert re.match(r"Raspberry Pi reference \d{4}-\d\d-\d\d\n.*stage2", made.boot_text("issue.txt"))
    assert made.read("/etc/machine-id") == ("uninitialized\n" if made.suite == "trixie" else "")


def test_modes_and_owners(made: Specimen) -> None:
    for path, expected in {
        "/": (0o755, 0, 0),
        "/etc/passwd": (0o644, 0, 0),
        "/etc/shadow": (0o640, 0, 42),
        "/etc/sudoers.d": (0o750, 0, 0),
        "/etc/machine-id": (0o444, 0, 0),
        "/home/pi": (0o700, 1000, 1000),
        "/home/pi/.bashrc": (0o644, 1000, 1000),
        "/root": (0o700, 0, 0),
        "/tmp": (0o1777, 0, 0),
        "/usr/lib/raspberrypi-sys-mods/sshswitch": (0o755, 0, 0),
        "/usr/lib/systemd/system/sshswitch.service": (0o644, 0, 0),
        "/usr/bin/bash": (0o755, 0, 0),
        "/lib": (0o777, 0, 0),
    }.items():
        assert (path, made.stat(path)) == (path, expected)
    assert made.link("/lib") == "usr/lib"
    rule = made.stat("/etc/sudoers.d/010_pi-nopasswd")
    assert rule == (None if made.name == NEWEST else (0o440, 0, 0))


def test_nothing_belongs_to_whoever_made_it(made: Specimen) -> None:
    owners = set()
    for folder in ("/", "/etc", "/usr", "/usr/bin", "/usr/share/doc", "/home", "/home/pi"):
        for line in filter(None, made.debugfs(f"ls -p {folder}").splitlines()):
            _, _, _, uid, gid, *_ = line.split("/")
            owners.add((uid, gid))
    assert owners == {("0", "0"), ("0", "42"), ("1000", "1000")}


def test_account_pi_cannot_log_in(made: Specimen) -> None:
    accounts = {line.split(":")[0]: line.split(":") for line in made.read("/etc/passwd").splitlines()}
    hashes = {line.split(":")[0]: line.split(":")[1] for line in made.read("/etc/shadow").splitlines()}
    shell = "/usr/sbin/nologin" if made.name == NEWEST else "/bin/bash"
    assert accounts["pi"][2:] == ["1000", "1000", ",,,", "/home/pi", shell]
    assert accounts.keys() == hashes.keys()
    assert all(value in ("!", "*", "!*") for value in hashes.values())


def test_units_are_enabled_and_exist(made: Specimen) -> None:
    wanted = "/etc/systemd/system/multi-user.target.wants"
    units = {"sshswitch", "userconfig"}
    if made.suite != "trixie":
        units |= {"regenerate_ssh_host_keys", "dphys-swapfile"}
    units.add("dhcpcd" if made.suite == "bullseye" else "NetworkManager")
    for unit in units:
        target = made.link(f"{wanted}/{unit}.service")
        assert target == f"/lib/systemd/system/{unit}.service"
        assert made.stat(f"/usr{target}") is not None
    assert made.stat(f"{wanted}/ssh.service") is None
    has_resize = made.link("/etc/systemd/system/sysinit.target.wants/rpi-resize.service") is not None
    assert has_resize == (made.suite == "trixie")
    keys_by_debian = made.stat("/etc/systemd/system/ssh.service.wants/sshd-keygen.service") is not None
    assert keys_by_debian == (made.suite == "trixie")
    has_firstboot = made.stat("/usr/lib/raspberrypi-sys-mods/firstboot") is not None
    assert has_firstboot == (made.suite != "trixie")


def test_network_stack(made: Specimen) -> None:
    keyfiles = made.stat("/etc/NetworkManager/system-connections")
    if made.suite == "bullseye":
        assert "#static ip_address=" in made.read("/etc/dhcpcd.conf")
        for chip in ("3f300000", "fe300000"):
            assert made.read(f"/var/lib/systemd/rfkill/platform-{chip}.mmcnr:wlan") == "1\n"
        assert made.stat("/var/lib/NetworkManager/NetworkManager.state") is None
    else:
        assert keyfiles == (0o700, 0, 0)
        state = made.read("/var/lib/NetworkManager/NetworkManager.state")
        assert "WirelessEnabled=false\n" in state


def test_cloud_init_only_where_it_came(made: Specimen) -> None:
    has_seed = made.name in ("trixie-2025-12", "trixie-2026-10")
    assert made.boot_names() & CLOUD_INIT_SEED == (CLOUD_INIT_SEED if has_seed else set())
    for path in (
        "/etc/cloud/cloud.cfg",
        "/etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg",
        "/usr/lib/netplan/00-network-manager-all.yaml",
    ):
        assert (made.stat(path) is not None) == (made.suite == "trixie")
    if made.suite == "trixie":
        assert "ssh_deletekeys: false\n" in made.read("/etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg")
        fallback = made.debugfs("cat /etc/cloud/cloud.cfg.d/95_no-fallback-network.cfg")
        assert ("disable_fallback_netcfg: true\n" in fallback) == (made.name == NEWEST)
    if has_seed:
        assert made.boot_text("user-data").startswith("#cloud-config\n")
        assert "instance_id: rpios-image\n" in made.boot_text("meta-data")


def test_what_trixie_has_another_way(made: Specimen) -> None:
    """Swap, apt's sources, and the time a machine without a clock starts from."""
    is_trixie = made.suite == "trixie"
    there = {
        "/etc/dphys-swapfile": not is_trixie,
        "/etc/fake-hwclock.data": not is_trixie,
        "/etc/init.d/resize2fs_once": not is_trixie,
        "/etc/rc3.d/S01resize2fs_once": not is_trixie,
        "/etc/rpi/swap.conf": is_trixie,
        "/etc/apt/sources.list.d/debian.sources": is_trixie,
        "/etc/apt/sources.list.d/raspi.sources": is_trixie,
        "/etc/apt/sources.list.d/raspi.list": not is_trixie,
        "/var/lib/systemd/timesync/clock": is_trixie,
        "/usr/lib/systemd/journald.conf.d/40-rpi-volatile-storage.conf": True,
        "/usr/lib/systemd/system.conf.d/40-rpi-enable-watchdog.conf": made.name == NEWEST,
    }
    assert {path: made.stat(path) is not None for path in there} == there
    assert (made.read("/etc/apt/sources.list") == "") == is_trixie
    assert ("armhf\n" in made.debugfs("cat /var/lib/dpkg/arch")) == is_trixie
    assert made.read("/etc/resolv.conf") == "nameserver 8.8.8.8\n"
    if is_trixie:
        assert made.debugfs("stat /var/lib/systemd/timesync/clock").count(" 12:00:00 ") >= 1


def test_the_sections_of_config_txt(made: Specimen) -> None:
    sections = [line for line in made.boot_text("config.txt").splitlines() if line.startswith("[")]
    later = made.suite == "trixie" or made.name == "bookworm-2025-05"
    assert sections == [
        "[cm4]",
        *(["[cm5]"] if later else []),
        *(["[pi5]"] if made.name == NEWEST else []),
        "[all]",
    ]


def test_a_release_means_its_newest_image(specimen: Callable[[str], Path]) -> None:
    for name in ("bullseye-2023-05", "bookworm-2025-05", "trixie-2026-10"):
        run(["cmp", specimen(name.partition("-")[0]), specimen(name)])


def test_an_image_with_rpi_preseed(specimen: Callable[[str], Path]) -> None:
    """No cloud-init, and nobody calls userconf."""
    made = Specimen("trixie-2026-10", specimen("trixie-preseed"))  # its geometry
    wanted = "/etc/systemd/system/multi-user.target.wants"
    assert made.link(f"{wanted}/rpi-preseed.service") == "/usr/lib/systemd/system/rpi-preseed.service"
    assert made.stat(f"{wanted}/userconfig.service") is None
    assert made.stat("/usr/lib/userconf-pi/userconf") == (0o755, 0, 0)
    assert not made.boot_names() & CLOUD_INIT_SEED
    for path in ("/etc/cloud/cloud.cfg", "/usr/lib/netplan/00-network-manager-all.yaml"):
        assert made.stat(path) is None


def test_sshd_reads_its_folder(made: Specimen) -> None:
    assert "\nInclude /etc/ssh/sshd_config.d/*.conf\n" in made.read("/etc/ssh/sshd_config")
    listed = made.debugfs("ls -p /etc/ssh")
    assert "ssh_host_" not in listed


def test_a_file_of_zeros_is_in_use_but_a_hole_in_the_image(made: Specimen) -> None:
    path = "/usr/share/specimen/zeros"
    blocks = [int(word) for word in made.debugfs(f"blocks {path}").split()]
    assert len(blocks) == 3 * MIB // 4096
    assert run(["debugfs", "-R", f"testb {blocks[0]} {len(blocks)}", made.root]).stdout.count(
        b"marked in use"
    ) == len(blocks)
    offset = GEOMETRY[made.name][2] * SECTOR + blocks[0] * 4096
    with made.image.open("rb") as stream:
        stream.seek(offset)
        assert stream.read(4096) == bytes(4096)
    assert made.image.stat().st_blocks * 512 < 100 * MIB


def test_same_inputs_same_bytes(tmp_path: Path, specimen: Callable[[str], Path]) -> None:
    again = tmp_path / "again.img"
    run([SCRIPTS / "make-specimen", "bookworm", again])
    run(["cmp", specimen("bookworm"), again])


def test_what_is_asked_wrongly_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as unknown:
        run([SCRIPTS / "make-specimen", "trixie-2025-11", tmp_path / "x.img"])
    assert unknown.value.status == 2
    with pytest.raises(ToolError) as nowhere:
        run([SCRIPTS / "make-specimen", "bookworm", tmp_path / "missing" / "x.img"])
    assert nowhere.value.status == 1
    assert b"Traceback" not in nowhere.value.stderr
    assert list(tmp_path.iterdir()) == []
