"""The work of a Raspberry Pi's firmware before the kernel starts: reading files of the boot partition."""

from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image.tree import BootTree

DEVICE_TREES = ("/bcm2710-rpi-3-b-plus.dtb", "/bcm2837-rpi-3-b-plus.dtb")  # Raspberry Pi's name, Debian's
_CMDLINE_LIMIT = 64 << 10  # bytes
_KERNEL_LIMIT = 128 << 20  # bytes of a kernel or an initramfs; those of 2026 have 10 to 20 MiB

WORDS = (
    "console=ttyAMA0,115200",
    "net.ifnames=0",
    "loglevel=6",
    "systemd.default_timeout_start_sec=600",
    "systemd.default_device_timeout_sec=600",
    "nokaslr",
    "mitigations=off",
    "norandmaps",
)
"""Words added to cmdline.txt: console, port name, log level, timeouts; no mitigations, no randomization.

On a busy host it takes minutes until systemd sees the card, and its default timeout is 90 seconds.
Mitigations against processor leaks have no use in emulation. The most expensive, separate page tables, is
switched on with KASLR (arch/arm64/kernel/cpufeature.c, kaslr_requires_kpti) and took a quarter of the boot
time, because QEMU flushes its TLB at each system call. With address space randomization, Debian 12's QEMU 7.2
translates each library once per program, because it looks up translated code by virtual address
(tb_htable_lookup); that took a third of the remaining time.
"""
NO_MEMORY_GROUPS = "cgroup_disable=memory"
"""From every board's device tree (raspberrypi/linux, pull request 6439): a power cut loses as much as there.

With the memory controller the kernel counts dirty pages per service, and writes a small service's files
within 5 seconds (wb_over_bg_thresh); without it, as on a board, after 30 seconds.
"""


def command_line(tree: BootTree) -> str:
    """The kernel's command line: cmdline.txt unchanged, the words of a board's device tree, and ``WORDS``."""
    content = tree.read("/cmdline.txt", _CMDLINE_LIMIT)
    if content is None:
        raise PiimgError("the boot partition has no cmdline.txt", "is this a node image?")
    words = content.decode("utf-8", "replace").split()
    groups = [] if "cgroup_enable=memory" in words else [NO_MEMORY_GROUPS]
    return " ".join([*words, *groups, *WORDS])


@dataclass(frozen=True)
class Firmware:
    """The files that a Raspberry Pi 3 B+ boots from, and the kernel's command line."""

    kernel: Path
    initramfs: Path | None
    device_tree: Path
    words: str


def firmware_files(tree: BootTree, stem: Path) -> Firmware:
    """The files of the boot partition that a 3 B+ starts from, copied beside ``stem``. Raises PiimgError."""
    trees = (content for name in DEVICE_TREES if (content := tree.read(name)) is not None)
    contents = {
        "kernel": tree.read("/kernel8.img", _KERNEL_LIMIT),
        "initramfs": tree.read("/initramfs8", _KERNEL_LIMIT),
        "dtb": next(trees, None),
    }
    for name, file in (("kernel", "kernel8.img"), ("dtb", DEVICE_TREES[0].strip("/"))):
        if contents[name] is None:
            raise PiimgError(
                f"the boot partition has no {file}", "a Raspberry Pi 3 B+ cannot boot it: use --machine virt"
            )
    files = {name: stem.with_name(f"{stem.name}.{name}") for name in contents}
    for name, content in contents.items():
        if content is not None:
            files[name].write_bytes(content)
    initramfs = files["initramfs"] if contents["initramfs"] is not None else None
    return Firmware(files["kernel"], initramfs, files["dtb"], command_line(tree))
