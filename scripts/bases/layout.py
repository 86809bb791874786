"""The images of Raspberry Pi OS Lite that can be made, and where their partitions lie.

Sectors, sizes, labels and file system features are those of the published images (pi-gen,
export-image/prerun.sh and stage1/00-boot-files/files/cmdline.txt at the image's date). docs/test-bases.md
lists what is modelled, and by which source.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

SECTOR = 512  # bytes
MIB = 1 << 20  # bytes

BOOT_LABEL = "bootfs"
ROOT_LABEL = "rootfs"

EXT4 = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,flex_bg,sparse_super,large_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
EXT4_FROM_TRIXIE = f"{EXT4},metadata_csum_seed,orphan_file"  # what mke2fs 1.47 adds by default


@dataclass(frozen=True)
class Layout:
    """One image: where its boot partition starts (in sectors), identities, and file layers.

    ``cluster`` is of the boot partition, in sectors; ``login_shell`` is that of the account ``pi``;
    ``included`` are Debian packages that a system that starts has besides those of its release.
    """

    name: str
    suite: str  # Debian's code name
    date: str  # the day pi-gen made the image this one is modelled on
    boot_start: int
    boot_mib: int
    disk_id: int
    layers: tuple[str, ...]
    ext4_features: str = EXT4
    cluster: int = 4
    login_shell: str = "/bin/bash"
    included: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """What the names of files in the cache have in addition: ``+docker.io+ufw``."""
        return "".join(f"+{package}" for package in self.included)

    @property
    def boot_sectors(self) -> int:
        """Sectors of the boot partition."""
        return self.boot_mib * MIB // SECTOR

    @property
    def root_start(self) -> int:
        """First sector of the root partition: right behind the boot partition."""
        return self.boot_start + self.boot_sectors

    @property
    def epoch(self) -> int:
        """Seconds since 1970 stamped on every file and file system: noon of the image's day."""
        return int(datetime.fromisoformat(f"{self.date}T12:00:00").replace(tzinfo=UTC).timestamp())

    @property
    def root_uuid(self) -> str:
        """The root file system's UUID, fixed so that the same inputs give the same bytes."""
        return f"{self.disk_id:08x}-0002-4000-8000-000000000000"

    @property
    def substitutions(self) -> dict[bytes, bytes]:
        """What stands in the layers' files for values that belong to the layout."""
        return {b"@DISKID@": b"%08x" % self.disk_id, b"@DATE@": self.date.encode()}


_BEFORE_TRIXIE = ("common", "nopasswd", "before-trixie")
_BOOKWORM = (*_BEFORE_TRIXIE, "networkmanager", "bookworm")
_TRIXIE = ("common", "networkmanager", "cm5", "trixie", "cloud-init")
_2025 = (*_TRIXIE, "nopasswd")

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "bullseye-2023-05", "bullseye", "2023-05-03", 8192, 256, 0x3E1E1A11, (*_BEFORE_TRIXIE, "bullseye")
        ),
        Layout("bookworm-2024-11", "bookworm", "2024-11-19", 8192, 512, 0x5B0011AA, _BOOKWORM),
        Layout("bookworm-2025-05", "bookworm", "2025-05-13", 16384, 512, 0x5B0012AA, (*_BOOKWORM, "cm5")),
        Layout("trixie-2025-10", "trixie", "2025-10-01", 16384, 512, 0x7213E10A, _2025, EXT4_FROM_TRIXIE),
        Layout(
            *("trixie-2025-12", "trixie", "2025-12-04", 16384, 512, 0x7213E12C),
            (*_2025, "cloud-init-seed"),
            EXT4_FROM_TRIXIE,
        ),
        # No image has this yet: what rpi-imager's pull request 1659 announces, on the newest image.
        Layout(
            *("trixie-preseed", "trixie", "2026-10-06", 16384, 512, 0x7213E95D),
            ("common", "networkmanager", "cm5", "trixie", "trixie-2026-10", "rpi-preseed"),
            EXT4_FROM_TRIXIE,
            cluster=1,
            login_shell="/usr/sbin/nologin",
        ),
        Layout(
            *("trixie-2026-10", "trixie", "2026-10-06", 16384, 512, 0x7213E26A),
            (*_TRIXIE, "cloud-init-seed", "trixie-2026-10"),
            EXT4_FROM_TRIXIE,
            cluster=1,
            login_shell="/usr/sbin/nologin",
        ),
    )
}
NEWEST = {layout.suite: layout for layout in LAYOUTS.values()}
"""The newest image of a release, which its name alone means."""


def named(name: str) -> Layout:
    """The layout called ``name``: ``trixie-2025-12``, or ``trixie`` for the newest. Raises KeyError."""
    return LAYOUTS[name] if name in LAYOUTS else NEWEST[name]
