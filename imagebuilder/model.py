"""The dataclasses every wing speaks in: the cluster, its nodes, and what each node gets. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

HOME = "/home/pi"
"""The home of UID 1000 in a fresh base image, where overlays put its files: the first boot moves it with the
account's name."""


class SwapKind(StrEnum):
    """Where a node puts memory that it does not use."""

    DEFAULT = "default"  # as the release does
    OFF = "off"
    ZRAM = "zram"  # compressed, in memory
    FILE = "file"  # on the card


@dataclass(frozen=True)
class NetworkStack:
    """A program that sets up a node's network. ``units`` are its systemd units, the usual one first.

    ``program`` is the file of the program, where a unit may be there without it; ``layer`` the layer that has
    its settings. Without one, the layer of each release has them.
    """

    name: str
    units: tuple[str, ...]
    program: str = ""
    layer: str = ""


DHCPCD = NetworkStack("dhcpcd", ("dhcpcd.service", "dhcpcd5.service"))
NETWORK_MANAGER = NetworkStack(
    "NetworkManager", ("NetworkManager.service",), "/usr/sbin/NetworkManager", "network-manager"
)

NETWORK_STACKS = (NETWORK_MANAGER, DHCPCD)
"""The network stacks piimg knows how to set up."""

_SWAP_BY_DPHYS = {
    SwapKind.OFF: ("swap-none",),
    SwapKind.ZRAM: ("swap-none", "swap-zram"),
    SwapKind.FILE: ("swap-dphys",),
}
_SWAP_BY_RPI_SWAP = dict.fromkeys((SwapKind.OFF, SwapKind.ZRAM, SwapKind.FILE), ("swap-rpi",))
_GROWN_ONCE = ("grow-once",)
_GROWTH_SCRIPT = "init=/usr/lib/raspberrypi-sys-mods/firstboot"


@dataclass(frozen=True)
class ReleaseFacts:
    """What sets a release apart from the others; docs/development.md says how to add one.

    ``boot_mount`` is where the running system mounts the boot partition (pi-gen), ``growth_word`` the word of
    cmdline.txt that grows the root partition on the first boot, ``machine_id`` what /etc/machine-id holds in
    a fresh image. ``swap_layers`` are the layers for each kind of swap that is not the release's own,
    ``layers`` those that it shares with other releases; ``clears_netplan``: the release's layer removes
    netplan files of the base image (``[netplan] clear``).
    """

    network: NetworkStack
    boot_mount: str
    growth_word: str
    machine_id: bytes
    swap_layers: Mapping[SwapKind, tuple[str, ...]]
    layers: tuple[str, ...] = ()
    clears_netplan: bool = False


class Release(StrEnum):
    """The Raspberry Pi OS releases piimg knows how to set up; each has a layer ``os-<release>``."""

    BULLSEYE = "bullseye"
    BOOKWORM = "bookworm"
    TRIXIE = "trixie"

    @property
    def facts(self) -> ReleaseFacts:
        """What is particular to this release."""
        return _RELEASES[self]


_RELEASES: Mapping[Release, ReleaseFacts] = {
    Release.BULLSEYE: ReleaseFacts(DHCPCD, "/boot", _GROWTH_SCRIPT, b"", _SWAP_BY_DPHYS, _GROWN_ONCE),
    Release.BOOKWORM: ReleaseFacts(
        NETWORK_MANAGER, "/boot/firmware", _GROWTH_SCRIPT, b"", _SWAP_BY_DPHYS, _GROWN_ONCE
    ),
    Release.TRIXIE: ReleaseFacts(
        NETWORK_MANAGER,
        "/boot/firmware",
        "resize",
        b"uninitialized\n",
        _SWAP_BY_RPI_SWAP,
        clears_netplan=True,
    ),
}


class Policy(StrEnum):
    """When the gateway lets the workers out."""

    OFF = "off"
    ON = "on"
    ON_DEMAND = "on-demand"


class Medium(StrEnum):
    """What a board starts from."""

    CARD = "card"
    EITHER = "either"  # a Compute Module: eMMC, or (Lite) a card in its carrier
    EMMC = "eMMC"  # soldered on


@dataclass(frozen=True)
class Board:
    """A Raspberry Pi model and the architectures (Debian names) whose images start on it.

    ``wifi`` and ``wired``: whether it has a radio and a port for the LAN; None where some have (a variant of
    the model, or the carrier of a Compute Module). From Raspberry Pi's product briefs and the device trees in
    github.com/raspberrypi/firmware, boot/.
    """

    name: str
    title: str
    architectures: tuple[str, ...]
    wifi: bool | None = True
    wired: bool | None = True
    medium: Medium = Medium.CARD


_ARMHF, _BOTH = ("armhf",), ("arm64", "armhf")

BOARDS: Mapping[str, Board] = {
    board.name: board
    for board in (
        Board("pi-zero", "Raspberry Pi Zero / Zero W", _ARMHF, wifi=None, wired=False),
        Board("pi-1", "Raspberry Pi 1", _ARMHF, wifi=False, wired=None),
        Board("pi-2", "Raspberry Pi 2 Model B", _ARMHF, wifi=False),
        Board("pi-zero-2", "Raspberry Pi Zero 2 W", _BOTH, wired=False),
        Board("pi-3a+", "Raspberry Pi 3 Model A+", _BOTH, wired=False),
        Board("pi-3b", "Raspberry Pi 3 Model B", _BOTH),
        Board("pi-3b+", "Raspberry Pi 3 Model B+", _BOTH),
        Board("pi-4b", "Raspberry Pi 4 Model B", _BOTH),
        Board("pi-400", "Raspberry Pi 400", _BOTH),
        Board("pi-5", "Raspberry Pi 5", _BOTH),
        Board("pi-500", "Raspberry Pi 500", _BOTH),
        Board("pi-500+", "Raspberry Pi 500+", _BOTH),
        Board("cm0", "Compute Module Zero", _BOTH, wifi=None, wired=None, medium=Medium.EITHER),
        Board("cm1", "Compute Module 1", _ARMHF, wifi=False, wired=None, medium=Medium.EMMC),
        Board("cm3", "Compute Module 3", _BOTH, wifi=False, wired=None, medium=Medium.EITHER),
        Board("cm3+", "Compute Module 3+", _BOTH, wifi=False, wired=None, medium=Medium.EITHER),
        Board("cm4", "Compute Module 4", _BOTH, wifi=None, wired=None, medium=Medium.EITHER),
        Board("cm4s", "Compute Module 4S", _BOTH, wifi=False, wired=None, medium=Medium.EITHER),
        Board("cm5", "Compute Module 5", _BOTH, wifi=None, wired=None, medium=Medium.EITHER),
    )
}


@dataclass(frozen=True)
class Secret:
    """The name of a secret: ``{ secret = "wifi_psk" }`` in the manifest. Never its value."""

    name: str


@dataclass(frozen=True)
class Wifi:
    """A node's way onto a wireless network. ``passphrase`` names a secret, or None for an open network."""

    ssid: str
    country: str
    passphrase: Secret | None
    interface: str = "wlan0"


@dataclass(frozen=True)
class Swap:
    """A node's swap. ``mib`` is the size of a FILE in MiB, else 0."""

    kind: SwapKind = SwapKind.DEFAULT
    mib: int = 0


@dataclass(frozen=True)
class User:
    """The account of the cluster: UID 1000 of the base image, renamed."""

    name: str
    password: Secret | None
    authorized_keys: tuple[str, ...]


@dataclass(frozen=True)
class Gateway:
    """The node that gives the others a way out, through which of its interfaces, and when."""

    node: str
    uplink: str
    policy: Policy


Value = str | int | bool | Secret


@dataclass(frozen=True)
class Node:
    """One machine of the cluster. ``address`` is on the cluster's LAN, on ``interface``."""

    name: str
    role: str
    board: Board
    address: IPv4Address
    interface: str = "eth0"
    wifi: Wifi | None = None
    layers: tuple[str, ...] = ()
    vars: Mapping[str, Value] = field(default_factory=dict)
    swap: Swap = Swap()


@dataclass(frozen=True)
class Cluster:
    """A checked cluster manifest. ``folder`` holds the manifest; relative paths in it start there."""

    name: str
    domain: str
    base: str
    release: Release | None
    timezone: str
    locale: str
    keyboard: str
    lan: IPv4Network
    dns: tuple[IPv4Address, ...]
    user: User
    gateway: Gateway
    nodes: tuple[Node, ...]
    layers: tuple[str, ...]
    vars: Mapping[str, Value]
    folder: Path
    digest: str  # sha256 of the manifest file's bytes, hex

    @property
    def interfaces(self) -> frozenset[str]:
        """The interfaces that the manifest sets up on any of its nodes."""
        wired = {node.interface for node in self.nodes} | {self.gateway.uplink}
        return frozenset(wired | {node.wifi.interface for node in self.nodes if node.wifi})

    def node(self, name: str) -> Node:
        """The node called ``name``; KeyError if the manifest has none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


@dataclass(frozen=True)
class KeyPair:
    """An SSH key: ``private`` in OpenSSH PEM form, ``public`` as one line without newline."""

    private: str = field(repr=False)
    public: str


@dataclass(frozen=True)
class Credentials:
    """Everything secret or derived from a secret that templates may use. Nothing of it is printed.

    ``host_keys`` and ``wifi_psks`` are by node name; a PSK is 64 hex digits (IEEE 802.11i, PBKDF2 of
    the passphrase). ``secrets`` are the manifest's named secrets, as given.
    """

    host_keys: Mapping[str, KeyPair]
    gateway_key: KeyPair
    authorized_keys: tuple[str, ...]
    password_hash: str = field(repr=False)
    wifi_psks: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)


class Partition(StrEnum):
    """The two partitions of a base image that an overlay reaches."""

    BOOT = "boot"
    ROOT = "root"


class Kind(StrEnum):
    """What an entry does to a node's file tree."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    REMOVE = "remove"
    LINES = "lines"  # each line appended to a file unless it already stands there
    WORDS = "words"  # each word appended to a one-line file (cmdline.txt) unless it already stands there
    NETPLAN = "netplan"  # the base image's netplan files that set up an interface of the node are removed


@dataclass(frozen=True)
class Entry:
    """One thing an overlay does at ``path`` (absolute within its partition, e.g. ``/etc/hostname``).

    ``content`` is the bytes of a FILE, the lines of LINES (each ending in a newline), or the words of
    WORDS (or the interfaces of NETPLAN) separated by spaces; ``target`` is a LINK's target; ``section`` is
    the heading that LINES stand under. ``secret`` content is never shown, nor is its digest. ``optional``: a
    REMOVE, LINES or WORDS whose file may be missing from the base image.
    """

    partition: Partition
    path: str
    kind: Kind
    layer: str
    source: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    content: bytes = field(default=b"", repr=False)
    target: str = ""
    section: str = ""
    secret: bool = False
    optional: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of the content, hex; empty for a secret and for what has no content."""
        if self.secret or self.kind not in (Kind.FILE, Kind.LINES, Kind.WORDS):
            return ""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class NodePlan:
    """What one node gets: its merged entries, in the order they are applied.

    ``descriptions`` says what a layer is for, by its name in ``layers``, where its layer.toml says so.
    """

    node: Node
    release: Release
    layers: tuple[str, ...]
    entries: tuple[Entry, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)
