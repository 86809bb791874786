"""What a guest starts from: a disk with Debian 12, its stock kernel and piimg; a disk with a built cluster.

All of it is made without booting. piimg is installed by README.md's own commands, run natively by chroot in
the root while it is made: pip downloads and compiles, which would take far too long in emulation. The result
is kept in the cache, and depends on what it is made of.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.cache import Cache
from imagebuilder.system.files import locked, replacing
from tests.integration.card.running import TOP
from tests.support.cluster import make_place

SUITE = "bookworm"
PACKAGES = """
systemd-sysv udev dbus udisks2 polkitd libpam-systemd linux-image-amd64 initramfs-tools kmod openssh-server
sudo dmsetup fdisk dosfstools procps python3 ca-certificates
"""
USER = "alice"
CLUSTER = "/srv/piimg"
DEB = "/root/piimg.deb"

MIB = 1 << 20
_SIZE = 4096 * MIB  # bytes; of the root partition
_SWAP = 64 * MIB
_CLUSTER_SIZE = 8192 * MIB  # sparse node images are stored as such
_ROOT_UUID = "7069696d-6721-4000-8000-000000000001"
_TABLE = f"label: dos\nstart=2048, size={_SIZE // 512}, type=83\nsize={_SWAP // 512}, type=82\n"
# On a busy host all comes late: the kernel would take timers for broken, and systemd services for failed.
_WORDS = (
    "no_timer_check mitigations=off systemd.default_timeout_start_sec=600 systemd.condition-needs-update=no"
)
_MODULES = "ahci sd_mod ext4 crc32c_generic"  # what the initramfs needs to find the root

# mmdebstrap runs these on the new root ($1).
_BEFORE = """set -e
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/guest"
printf '%s\\n' $MODULES >"$1/usr/share/initramfs-tools/modules.d/guest"
"""
_AFTER = """set -e
chroot "$1" apt-get update -qq
chroot "$1" env DEBIAN_FRONTEND=noninteractive sh -ec "$COMMANDS"
chroot "$1" useradd --create-home --shell /bin/bash $NAME
"""

# Everything is mounted in a namespace that ends with the program. What the host trusts, pip in the root does.
_ENTER = """
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount --bind /etc/ssl/certs "$ROOT/etc/ssl/certs"
touch "$ROOT/etc/resolv.conf"
mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf"
exec chroot "$ROOT" sh -exc "cd /root/piimg; $COMMANDS"
"""

_WAIT = "x-systemd.device-timeout=600"  # seconds
_FSTAB = f"""UUID={_ROOT_UUID} / ext4 defaults 0 1
/dev/disk/by-id/ata-QEMU_HARDDISK_OWN-part2 none swap sw,{_WAIT} 0 0
/dev/disk/by-id/virtio-CLUSTER {CLUSTER} ext4 {_WAIT} 0 0
"""
_NETWORK = """[Match]
Name=en*
[Network]
Address=10.0.2.15/24
IPv6AcceptRA=no
LinkLocalAddressing=no
"""
_FILES = {
    "etc/fstab": _FSTAB,
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 guest\n",
    "etc/systemd/network/10-guest.network": _NETWORK,
}


@dataclass(frozen=True)
class Disks:
    """A folder with all that a guest starts from: its disks, kernel, and the keys to log in with."""

    folder: Path

    @property
    def root(self) -> Path:
        """The guest's own disk: an image with two partitions, the system and swap."""
        return self.folder / "root.img"

    @property
    def cluster(self) -> Path:
        """A file system with a cluster folder, all six nodes built. The same is in ``built``."""
        return self.folder / "cluster.img"

    @property
    def built(self) -> Path:
        """The cluster folder."""
        return self.folder / "mycluster"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initrd.img"

    @property
    def key(self) -> Path:
        """The private key to log in with."""
        return self.folder / "key"

    @property
    def host_key(self) -> str:
        """The guest's public host key."""
        return (self.folder / "host_key.pub").read_text()

    @property
    def words(self) -> str:
        """The kernel's command line: a slow machine is given time, and what nobody looks at is left out."""
        return f"root=UUID={_ROOT_UUID} ro console=ttyS0 {_WORDS}"


def make(cache: Cache, base: Path) -> Disks:
    """Make the disks, the nodes built on the base image ``base``; or take them from the cache."""
    folder = cache.of_tests("guest")
    with locked(folder / "lock", "another test makes the guest's disks"):
        kept = folder / f"disks-{_digest(base.name)}"
        if not kept.exists():
            archive = _debian(folder)
            with tempfile.TemporaryDirectory(dir=folder) as name:
                work = Path(name) / "disks"
                work.mkdir()
                _make(Disks(work), archive, Path(name) / "root", base)
                for old in folder.glob("disks-*"):
                    shutil.rmtree(old)
                work.rename(kept)
    return Disks(kept)


def _digest(*words: str) -> str:
    """A short name for all that the disks are made of."""
    summary = hashlib.sha256("\0".join(words).encode())
    for path in _sources():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        summary.update(f"{path.relative_to(TOP)} {content}\n".encode())
    return summary.hexdigest()[:16]


def _sources() -> list[Path]:
    folders = ("imagebuilder", "overlays", "manifests", "packaging", "scripts/installing")
    files = [path for name in folders for path in (TOP / name).rglob("*") if path.is_file()]
    files += [TOP / name for name in ("README.md", "pyproject.toml", "requirements.lock")]
    return sorted(path for path in (*files, Path(__file__)) if path.suffix != ".pyc")


def readme_commands() -> tuple[list[str], list[str]]:
    """The commands of README.md's section on installing: those for apt-get, and those after it."""
    section = (TOP / "README.md").read_text("utf-8").partition("\n## Install\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (.*)$", section, re.MULTILINE)
    packages = [command for command in commands if " apt-get install " in command]
    others = [command for command in commands if command not in packages]
    assert packages and any("pip install ." in other for other in others), commands
    return packages, others


def _debian(folder: Path) -> Path:
    """Debian with the guest's packages and what README.md installs with apt-get, as a tar archive."""
    packages, _ = readme_commands()
    commands = "; ".join(package.replace("apt-get install", "apt-get install -y -qq") for package in packages)
    words = [SUITE, *PACKAGES.split(), commands, _BEFORE, _AFTER]
    archive = folder / f"debian-{hashlib.sha256(repr(words).encode()).hexdigest()[:16]}.tar"
    if not archive.exists():
        for old in folder.glob("debian-*.tar"):
            old.unlink()
        settings = {"MODULES": _MODULES, "COMMANDS": commands, "NAME": USER}
        hooks = [f"--essential-hook={_BEFORE}", f"--customize-hook={_AFTER}"]
        names = ",".join(PACKAGES.split())
        with replacing(archive) as temporary:
            argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={names}", *hooks]
            _run([*argv, "--format=tar", SUITE, temporary], settings)
    return archive


def _make(disks: Disks, archive: Path, root: Path, base: Path) -> None:
    root.mkdir()
    _run(["tar", "-x", "-p", "--numeric-owner", "--xattrs", "-f", archive, "-C", root])
    _install(root)
    _run([sys.executable, TOP / "scripts/make-deb", disks.folder / "deb"])
    next((disks.folder / "deb").glob("*.deb")).rename(root / DEB.lstrip("/"))
    _settle(disks, root)
    _image(disks.root, root)
    place = make_place(disks.folder, disks.folder / "cache")
    place.good("build", "--all", "--base", base)
    shutil.rmtree(disks.folder / "cache")
    _run(
        [
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-d",
            place.folder,
            disks.cluster,
            f"{_CLUSTER_SIZE // MIB}m",
        ]
    )


def _install(root: Path) -> None:
    """Do in ``root`` what README.md says after the packages, in a copy of this checkout."""
    _, commands = readme_commands()
    copy = root / "root/piimg"
    for path in _checkout():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / path, copy / path)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name.endswith("_proxy")
    }
    search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    (root / "etc/sudoers.d/guest").write_text(f'Defaults env_keep += "{" ".join(kept)}"\n' if kept else "")
    settings = {**kept, "ROOT": str(root), "COMMANDS": "; ".join(commands), "HOME": "/root", "PATH": search}
    _run(["unshare", "--mount", "--propagation", "private", "sh", "-ec", _ENTER], settings)
    shutil.rmtree(copy / "build", ignore_errors=True)


def _checkout() -> Iterator[Path]:
    """The files that pip needs of this checkout, and those that the documents say to copy."""
    for path in _sources():
        yield path.relative_to(TOP)
    yield Path("LICENSE")


def _settle(disks: Disks, root: Path) -> None:
    """Make the root a machine with a name, an address, and a key to log in with."""
    for name, text in _FILES.items():
        (root / name).write_text(text)
    _run(["chroot", root, "systemctl", "--quiet", "enable", "systemd-networkd"])
    _run(["chroot", root, "systemctl", "--quiet", "mask", "apt-daily.timer", "apt-daily-upgrade.timer"])
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", disks.key])
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(disks.key.with_suffix(".pub"), root / "root/.ssh/authorized_keys")
    (root / CLUSTER.lstrip("/")).mkdir()
    shutil.copy(root / "etc/ssh/ssh_host_ed25519_key.pub", disks.folder / "host_key.pub")
    shutil.copy(next((root / "boot").glob("vmlinuz-*")), disks.kernel)
    shutil.copy(next((root / "boot").glob("initrd.img-*")), disks.initramfs)


def _image(target: Path, root: Path) -> None:
    with target.open("wb") as stream:
        stream.truncate(MIB + _SIZE + _SWAP + MIB)
    _run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", target], data=_TABLE)
    made = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", _ROOT_UUID, "-E", f"offset={MIB}"]
    _run([*made, "-d", root, target, f"{_SIZE // MIB}m"])
    swap = target.with_name("swap")
    with swap.open("wb") as stream:
        stream.truncate(_SWAP)
    _run(["mkswap", "--quiet", swap])
    _run(["dd", f"if={swap}", f"of={target}", "bs=1M", f"seek={1 + _SIZE // MIB}", "conv=notrunc,sparse"])
    swap.unlink()


def _run(argv: list[str | Path], settings: Mapping[str, str] | None = None, data: str | None = None) -> None:
    done = subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, **(settings or {})},
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{argv[0]}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
