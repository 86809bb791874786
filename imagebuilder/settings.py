"""Typed settings of a node and of the cluster: their values, without the manifest's syntax. No I/O."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

SSH_PORT = 22


@dataclass(frozen=True)
class KeyFile:
    """The path of a file with public keys, one a line; relative to the manifest."""

    path: str


@dataclass(frozen=True)
class Account:
    """An account besides the cluster's, on every node. ``groups`` are those besides its own."""

    name: str
    uid: int
    groups: tuple[str, ...]
    authorized_keys: tuple[str | KeyFile, ...]


FIRST_UID = 1001
"""The number of the first of these accounts: the cluster's own has 1000."""


CA_CERTIFICATES = "/usr/local/share/ca-certificates"
"""Where update-ca-certificates(8) looks for certificates of the node's owner."""


NETWORK_TYPES = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p", "fuse.sshfs"})


@dataclass(frozen=True)
class Mount:
    """A line of fstab(5). ``options`` are those of the manifest."""

    source: str
    path: str
    type: str
    options: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The line. The node starts without what is mounted (``nofail``). What is on another machine is
        mounted when it is first used, as that machine may start later (systemd.mount(5))."""
        added = [] if {"noauto", "nofail"} & {*self.options} else ["nofail"]
        if self.type in NETWORK_TYPES and "noauto" not in self.options:
            added += ["_netdev", "x-systemd.automount"]
        options = ",".join(dict.fromkeys([*self.options, *added])) or "defaults"
        checked = 2 if self.type in ("ext2", "ext3", "ext4") else 0
        return f"{self.source} {self.path} {self.type} {options} 0 {checked}"


_NAMESPACE = uuid.UUID("5e6ccb29-9b52-4f0e-a5ad-4ba5c6bdbfb1")  # fixed, so that UUIDs are reproducible


def uuid_of(text: str) -> str:
    """A UUID for ``text``, always the same (RFC 9562, version 5)."""
    return str(uuid.uuid5(_NAMESPACE, text))


def data_uuid(cluster: str, node: str) -> str:
    """The UUID of the file system of a node's data partition."""
    return uuid_of(f"{cluster}/{node}/data")


class Journal(StrEnum):
    """Where systemd's journal is kept."""

    DEFAULT = "default"  # as the release does: in memory
    PERSISTENT = "persistent"  # on the card


class HeaderInterface(StrEnum):
    """An interface of the GPIO header that is off in the base image."""

    I2C = "i2c"
    SPI = "spi"
    SERIAL = "serial"  # for programs
    SERIAL_CONSOLE = "serial-console"  # for kernel messages and a login prompt
    ONE_WIRE = "1-wire"


MODEL_FILTERS: Mapping[str, frozenset[str]] = {
    name: frozenset(boards.split())
    for name, boards in {
        "pi0": "pi-zero pi-zero-2 cm0",
        "pi0w": "pi-zero pi-zero-2 cm0",
        "pi02": "pi-zero-2 cm0",
        "pi1": "pi-1 cm1",
        "pi2": "pi-2",
        "pi3": "pi-3a+ pi-3b pi-3b+ cm3 cm3+",
        "pi3+": "pi-3a+ pi-3b+ cm3+",
        "pi4": "pi-4b pi-400 cm4 cm4s",
        "pi400": "pi-400",
        "pi5": "pi-5 pi-500 pi-500+ cm5",
        "pi500": "pi-500 pi-500+",
        "cm0": "cm0",
        "cm1": "cm1",
        "cm3": "cm3 cm3+",
        "cm3+": "cm3+",
        "cm4": "cm4",
        "cm4s": "cm4s",
        "cm5": "cm5",
    }.items()
}
"""The model filters of config.txt, and the boards to which the lines under each can apply (Raspberry Pi
documentation, "Conditional filters"). ``pi-zero`` is the Zero and the Zero W."""


class SwapKind(StrEnum):
    """The kind of swap of a node."""

    DEFAULT = "default"  # the setting of the release
    OFF = "off"
    ZRAM = "zram"  # compressed, in memory
    FILE = "file"  # on the card


@dataclass(frozen=True)
class Swap:
    """A node's swap. ``mib`` is the size of a FILE in MiB, else 0."""

    kind: SwapKind = SwapKind.DEFAULT
    mib: int = 0


class Policy(StrEnum):
    """When the gateway forwards the workers' traffic to the internet."""

    OFF = "off"
    ON = "on"
    ON_DEMAND = "on-demand"
