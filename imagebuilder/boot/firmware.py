"""What a Raspberry Pi's firmware does before a kernel starts: files and words of the boot partition."""

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
"""What is added to cmdline.txt: console, port's name, a talking kernel, time; no guards, nothing at random.

On a busy host it takes minutes until systemd sees the card; it would give it up after 90 seconds. Guards
against the leaks of a real processor are no use here. The dearest, separate page tables, comes with a kernel
at a random place (arch/arm64/kernel/cpufeature.c, kaslr_requires_kpti), and was a quarter of the boot's time:
at each call of the kernel QEMU forgets all addresses. With programs at random places, Debian 12's QEMU 7.2
translates each library anew for each program, as it knows translated code by its virtual address
(tb_htable_lookup): a third of what was left.
"""
NO_MEMORY_GROUPS = "cgroup_disable=memory"
"""Of every board's device tree (raspberrypi/linux, pull request 6439): power cuts cost what they cost there.

With the memory controller the kernel counts what each service has yet to write, and writes a small service's
files within 5 seconds (wb_over_bg_thresh); without it, as on a board, after 30.
"""


def command_line(tree: BootTree) -> str:
    """The kernel's command line: cmdline.txt as it is, what a board's device tree says, and ``WORDS``."""
    found = tree.read("/cmdline.txt", _CMDLINE_LIMIT)
    if found is None:
        raise PiimgError("the boot partition has no cmdline.txt", "is this a node image?")
    words = found.decode("utf-8", "replace").split()
    groups = [] if "cgroup_enable=memory" in words else [NO_MEMORY_GROUPS]
    return " ".join([*words, *groups, *WORDS])


@dataclass(frozen=True)
class Firmware:
    """What a Raspberry Pi 3 B+ starts, as files, and the kernel's command line."""

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
    for name, what in (("kernel", "kernel8.img"), ("dtb", DEVICE_TREES[0].strip("/"))):
        if contents[name] is None:
            raise PiimgError(
                f"the boot partition has no {what}", "a Raspberry Pi 3 B+ does not start it: --machine virt"
            )
    files = {name: stem.with_name(f"{stem.name}.{name}") for name in contents}
    for name, content in contents.items():
        if content is not None:
            files[name].write_bytes(content)
    initramfs = files["initramfs"] if contents["initramfs"] is not None else None
    return Firmware(files["kernel"], initramfs, files["dtb"], command_line(tree))
