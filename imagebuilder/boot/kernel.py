"""The companion kernel: Debian's kernel, with an initramfs packed here, for nodes on QEMU's "virt" machine.

A Raspberry Pi's own kernel does not boot there. apt fetches the packages and checks their signatures. It uses
its own folders, so that the host's lists and packages do not change; nothing is installed. The results stay
in the cache (base/cache.py), so that the next boot needs no network: the unpacked packages, named by the
suite and the package names, and an initramfs with modules, busybox and ``init``, named by a digest of its
contents.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.cache import Cache
from imagebuilder.base.space import check_room, writing
from imagebuilder.errors import PiimgError
from imagebuilder.events import Reporter
from imagebuilder.progress import task
from imagebuilder.system import files
from imagebuilder.system.process import ToolError, run

_log = logging.getLogger(__name__)

SUITE = "bookworm"  # its modules are not compressed: busybox cannot load .xz
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INIT = Path(__file__).resolve().parent / "init"
PACKAGES = ("busybox-static", "linux-image-arm64")

LOADED = (
    *("virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng"),
    *("crc32c_generic", "ext4", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1"),
)
"""Modules that init loads, with their dependencies; modules built into a kernel are left out."""

KEPT = (
    "kernel/crypto/",
    "kernel/drivers/block/zram/",
    "kernel/drivers/net/dummy",
    "kernel/drivers/net/tun",
    "kernel/drivers/net/veth",
    "kernel/drivers/net/vxlan/",
    "kernel/drivers/watchdog/softdog",
    "kernel/fs/autofs/",
    "kernel/fs/binfmt_misc",
    "kernel/fs/fuse/",
    "kernel/fs/lockd/",
    "kernel/fs/nfs",
    "kernel/fs/overlayfs/",
    "kernel/net/8021q/",
    "kernel/net/bridge/",
    "kernel/net/ipv4/",
    "kernel/net/ipv6/",
    "kernel/net/netfilter/",
    "kernel/net/sched/",
    "kernel/net/sunrpc/",
)
"""Paths of modules that a running node may load: for gateway, bridges, containers, swap, NFS, watchdog."""

_PATIENCE = 600.0  # seconds to wait for another run that fetches it
_SPACE = 700 << 20  # bytes for the packages, their contents and the initramfs


@dataclass(frozen=True)
class Kernel:
    """A kernel and its initramfs, as files for QEMU; ``version`` is the output of ``uname -r``."""

    version: str
    image: Path
    initramfs: Path


@contextlib.contextmanager
def companion(cache: Cache, reporter: Reporter) -> Iterator[Kernel]:
    """The companion kernel from the cache, which keeps it during the block; fetched if it is not there.

    Raises PiimgError when it cannot be fetched.
    """
    with cache.using_kernel():
        yield _companion(cache, reporter)


def current(cache: Cache) -> tuple[Path, ...]:
    """The files and folders in the cache that the next boot uses, as far as they exist."""
    packages = _packages(cache)
    images = sorted(packages.glob("boot/vmlinuz-*"))
    return (packages, *(_initramfs(cache, _version(image)) for image in images))


def _packages(cache: Cache) -> Path:
    return cache.kernel_packages(_digest(SUITE, MIRROR, *PACKAGES))


def _version(image: Path) -> str:
    return image.name.removeprefix("vmlinuz-")


def _initramfs(cache: Cache, version: str) -> Path:
    return cache.initramfs(_digest(version, *LOADED, *KEPT, INIT.read_text()))


def _companion(cache: Cache, reporter: Reporter) -> Kernel:
    with writing(f"use the cache {cache.folder}"):
        cache.boot.mkdir(parents=True, exist_ok=True)
    packages = _packages(cache)
    with _locked(cache.kernel_lock()):
        if not packages.is_dir():
            _log.info("companion kernel: fetch from %s, %s", MIRROR, SUITE)
            with task(reporter, "kernel", SUITE):
                _fetch(packages)
        [image] = packages.glob("boot/vmlinuz-*")
        version = _version(image)
        initramfs = _initramfs(cache, version)
        if not initramfs.exists():
            with writing("pack the initramfs"), files.replacing(initramfs) as temporary:
                _pack(packages, version, temporary)
    _log.info("companion kernel: %s", version)
    return Kernel(version, image, initramfs)


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Lock the cache's kernel during the block; waits for other runs that use it."""
    deadline = time.monotonic() + _PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(files.locked(lock, "the companion kernel is being fetched"))
                break
            except PiimgError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def _fetch(target: Path) -> None:
    """Unpack the packages into ``target``, which is created only when it is complete."""
    check_room(target.parent, _SPACE, "fetch the companion kernel")
    if not KEYRING.exists():
        raise PiimgError("Debian's signing keys are missing", "sudo apt-get install debian-archive-keyring")
    with (
        writing("fetch the companion kernel"),
        tempfile.TemporaryDirectory(prefix=".packages-", suffix=".partial", dir=target.parent) as name,
    ):
        work = Path(name)
        options = _apt_options(work / "apt")
        try:
            _apt(options, work, "--error-on=any", "update")
            _apt(options, work, "download", *_names(options, work))
        except ToolError as error:
            errors = error.stderr.decode("utf-8", "replace").splitlines()
            first = next((line[3:] for line in errors if line.startswith("E: ")), error.message)
            raise PiimgError(
                f"the companion kernel cannot be fetched: {first}", f"check the connection to {MIRROR}"
            ) from error
        unpacked = work / "unpacked"
        for package in sorted(work.glob("*.deb")):
            run(["dpkg-deb", "--extract", package, unpacked])
        [version] = (unpacked / "lib/modules").iterdir()
        run(["depmod", "-b", unpacked, version.name])
        unpacked.rename(target)


def _names(options: list[str], work: Path) -> Iterator[str]:
    """The packages to fetch: linux-image-arm64 is empty, and depends on the package with the kernel."""
    for package in PACKAGES:
        listed = run(["apt-cache", *options, "depends", package], cwd=work).stdout.decode()
        needed = [line.split()[-1] for line in listed.splitlines() if line.startswith("  Depends: linux-")]
        yield from needed or [package]


def _apt(options: list[str], work: Path, *words: str) -> None:
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    run(["apt-get", *options, "--quiet", *words], env=proxies, cwd=work)


def _apt_options(folder: Path) -> list[str]:
    """Options that make apt use only ``folder``: lists, cache and an empty list of installed packages."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
    (folder / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",  # only the user can write to the folder
        "Acquire::Languages": "none",
        "Dir::Cache": folder,
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": folder / "status",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _pack(packages: Path, version: str, target: Path) -> None:
    """Pack the initramfs for kernel ``version``: not compressed, because unpacking is slow in emulation."""
    with tempfile.TemporaryDirectory(prefix=".initramfs-", suffix=".partial", dir=target.parent) as name:
        tree = Path(name)
        for folder in ("bin", "proc", "sys", "dev", "mnt", "boot", f"lib/modules/{version}"):
            (tree / folder).mkdir(parents=True)
        shutil.copy(packages / "bin/busybox", tree / "bin/busybox")
        shutil.copy(INIT, tree / "init")
        (tree / "init").chmod(0o755)
        source, modules = packages / "lib/modules" / version, tree / "lib/modules" / version
        table = dict(line.split(":", 1) for line in (source / "modules.dep").read_text().splitlines())
        loaded = _closure(table, _paths(table, LOADED))
        kept = _closure(table, [path for path in table if path.startswith(KEPT)])
        for path in {*loaded, *kept}:
            (modules / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, modules / path)
        for index in source.glob("modules.builtin*"):
            shutil.copy(index, modules)
        shutil.copy(source / "modules.order", modules)
        run(["depmod", "-b", tree, version])
        (tree / "lib/modules/order").write_text("".join(f"{version}/{path}\n" for path in loaded))
        listed = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        argv: list[str | Path] = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "-D", tree]
        target.write_bytes(run(argv, data=f"{listed}\n".encode()).stdout)


def _paths(table: dict[str, str], names: tuple[str, ...]) -> list[str]:
    by_name = {Path(path).name.removesuffix(".ko").replace("_", "-"): path for path in table}
    return [by_name[key] for name in names if (key := name.replace("_", "-")) in by_name]


def _closure(table: dict[str, str], paths: list[str]) -> list[str]:
    """``paths`` and their dependencies, in an order in which they can be loaded."""
    order: dict[str, None] = {}
    for path in paths:
        for needed in (*reversed(table[path].split()), path):
            order.setdefault(needed)
    return list(order)
