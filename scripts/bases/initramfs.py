"""A small initramfs that starts a Debian base: busybox, the modules a disk needs, and init."""

import lzma
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bases.tree import LAYERS
from imagebuilder.errors import PiimgError
from imagebuilder.system.process import run

INIT = Path(__file__).resolve().parent / "init"
MODULES = (
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "sdhci-iproc",
    "bcm2835",
    "bcm2835-dma",
    "mmc_block",
    "dwc2",
    "phy-generic",
    "usbnet",
    "cdc_ether",
    "crc32c_generic",
    "ext4",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859-1",
)
"""Modules to load, with all they depend on; what a kernel has built in is left out."""


def make(target: Path, root: Path, layers: Iterable[str]) -> None:
    """Pack an initramfs for the kernel and busybox of the system at ``root`` into ``target``.

    The files in ``initramfs/`` of ``layers`` go into it; of those, init runs ``first-boot``.

    Raises PiimgError when the system has no single kernel or no static busybox.
    """
    versions = list((root / "usr/lib/modules").iterdir())
    if len(versions) != 1:
        raise PiimgError(
            f"expected one kernel, found {len(versions)}", "remove the cached system and try again"
        )
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("bin", "modules", "proc", "sys", "dev", "mnt", "boot"):
            (tree / name).mkdir()
        shutil.copy(root / "usr/bin/busybox", tree / "bin/busybox")
        shutil.copy(INIT, tree / "init")
        for layer in layers:
            for extra in (LAYERS / layer / "initramfs").glob("*"):
                shutil.copy(extra, tree / extra.name)
        loaded = [_unpack(versions[0] / name, tree / "modules") for name in _needed(versions[0])]
        (tree / "modules/order").write_text("".join(f"{name}\n" for name in loaded))
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        packed = run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "-D", tree], data=f"{names}\n".encode()
        )
    target.write_bytes(run(["gzip", "-n"], data=packed.stdout).stdout)


def _needed(modules: Path) -> list[str]:
    """Paths within ``modules`` of MODULES and their dependencies, in the order they can be loaded."""
    table = dict(line.split(":", 1) for line in (modules / "modules.dep").read_text().splitlines())
    by_name = {Path(path).name.split(".ko")[0].replace("_", "-"): path for path in table}
    order: dict[str, None] = {}
    for name in MODULES:
        path = by_name.get(name.replace("_", "-"))
        if path is not None:
            for needed in (*reversed(table[path].split()), path):
                order.setdefault(needed)
    return list(order)


def _unpack(module: Path, folder: Path) -> str:
    """Copy one module, decompressed: busybox loads no .xz."""
    content = module.read_bytes()
    name = module.name.removesuffix(".xz")
    (folder / name).write_bytes(lzma.decompress(content) if module.suffix == ".xz" else content)
    return name
