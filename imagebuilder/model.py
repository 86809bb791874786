"""The data model shared by all packages: the cluster, its nodes, and the plan of each node. No I/O."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from imagebuilder.boards import Board
from imagebuilder.networks import DHCPCD, NETWORK_MANAGER, NetworkStack, WifiSecurity, port_of
from imagebuilder.settings import (
    SSH_PORT,
    Account,
    HeaderInterface,
    Journal,
    KeyFile,
    Mount,
    Policy,
    Swap,
    SwapKind,
)
from imagebuilder.software import Download, Software

HOME = "/home/pi"
"""The home of UID 1000 in a fresh base image. Overlays put the user's files there; the first boot renames it
together with the account."""


_SWAP_BY_DPHYS = {
    SwapKind.OFF: ("swap-none",),
    SwapKind.ZRAM: ("swap-none", "swap-zram"),
    SwapKind.FILE: ("swap-dphys",),
}
_SWAP_BY_RPI_SWAP = dict.fromkeys((SwapKind.OFF, SwapKind.ZRAM, SwapKind.FILE), ("swap-rpi",))
_GROWN_ONCE = ("grow-once",)
_GROWTH_SCRIPT = "init=/usr/lib/raspberrypi-sys-mods/firstboot"


@dataclass(frozen=True)
class Programs:
    """What the programs of a release have, for layers: ``cluster.programs`` of templates.

    The defaults are those of the newest release, and so of the next one.
    """

    chrony_activate: bool = True  # chrony.conf(5) has "activate"
    docker_cli: bool = True  # the command docker is in a package of its own
    nfs_conf: bool = True  # the NFS server reads nfs.conf(5)
    rpi_swap: bool = True  # rpi-swap sets up the swap
    ssh_penalties: bool = True  # sshd blocks addresses for a while: PerSourcePenalties of sshd_config(5)


_BOOKWORM = Programs(chrony_activate=False, docker_cli=False, rpi_swap=False, ssh_penalties=False)
_BULLSEYE = replace(_BOOKWORM, nfs_conf=False)


@dataclass(frozen=True)
class ReleaseFacts:
    """The differences between releases; docs/development.md says how to add one."""

    network: NetworkStack
    boot_mount: str  # where the running system mounts the boot partition (pi-gen)
    growth_word: str  # of cmdline.txt; it grows the root partition on the first boot
    machine_id: bytes  # the content of /etc/machine-id in a fresh image
    layers: tuple[str, ...] = ()  # shared with other releases
    clears_netplan: bool = False  # its layer removes netplan files of the base image ([netplan] clear)
    wpa3: bool = True  # its Wi-Fi can join WPA3 networks
    programs: Programs = Programs()

    @property
    def swap_layers(self) -> Mapping[SwapKind, tuple[str, ...]]:
        """The layers for each kind of swap other than the release's default."""
        return _SWAP_BY_RPI_SWAP if self.programs.rpi_swap else _SWAP_BY_DPHYS


class Release(StrEnum):
    """The Raspberry Pi OS releases that piimg supports; each has a layer ``os-<release>``."""

    BULLSEYE = "bullseye"
    BOOKWORM = "bookworm"
    TRIXIE = "trixie"

    @property
    def facts(self) -> ReleaseFacts:
        """The facts about this release."""
        return _RELEASES[self]


_RELEASES: Mapping[Release, ReleaseFacts] = {
    Release.BULLSEYE: ReleaseFacts(
        DHCPCD, "/boot", _GROWTH_SCRIPT, b"", _GROWN_ONCE, wpa3=False, programs=_BULLSEYE
    ),
    Release.BOOKWORM: ReleaseFacts(
        NETWORK_MANAGER, "/boot/firmware", _GROWTH_SCRIPT, b"", _GROWN_ONCE, programs=_BOOKWORM
    ),
    Release.TRIXIE: ReleaseFacts(
        NETWORK_MANAGER, "/boot/firmware", "resize", b"uninitialized\n", clears_netplan=True
    ),
}

DEFAULT_RELEASE = Release.TRIXIE
"""The release of a new cluster; the catalogue has base images of it for each architecture."""


@dataclass(frozen=True)
class Secret:
    """The name of a secret: ``{ secret = "wifi_psk" }`` in the manifest. Never its value."""

    name: str


@dataclass(frozen=True)
class WifiNetwork:
    """A wireless network. ``passphrase`` names a secret, or is None for a network without one.

    ``hidden``: it does not broadcast its name.
    """

    ssid: str
    passphrase: Secret | None = None
    security: WifiSecurity = WifiSecurity.WPA2
    hidden: bool = False


@dataclass(frozen=True)
class Wifi:
    """A node's wireless network. ``fallback`` is used while the first one cannot be joined."""

    ssid: str
    country: str
    passphrase: Secret | None
    interface: str = "wlan0"
    fallback: WifiNetwork | None = None
    security: WifiSecurity = WifiSecurity.WPA2
    hidden: bool = False

    @property
    def networks(self) -> tuple[WifiNetwork, ...]:
        """The networks in the order in which they are tried."""
        first = WifiNetwork(self.ssid, self.passphrase, self.security, self.hidden)
        return (first, self.fallback) if self.fallback else (first,)


@dataclass(frozen=True)
class User:
    """The account of the cluster: UID 1000 of the base image, renamed."""

    name: str
    password: Secret | None
    authorized_keys: tuple[str | KeyFile, ...]


@dataclass(frozen=True)
class Gateway:
    """The node that routes to the internet, its ``uplink`` interface, and when it forwards.

    ``address`` is its static address on the uplink, with the prefix of the network there, and ``router`` the
    router; None if they come from DHCP.
    """

    node: str
    uplink: str
    policy: Policy
    address: IPv4Interface | None = None
    router: IPv4Address | None = None


Value = str | int | bool | Secret


@dataclass(frozen=True)
class Node:
    """One machine of the cluster. ``address`` is on the cluster's LAN, on ``interface``; None: from DHCP.

    ``packages`` are those that the manifest names, each with the tables that name it.
    ``config`` has the lines for config.txt by filter (``pi4``); ``interfaces`` are those of the GPIO header;
    ``ca_certificates`` are files, relative to the manifest. ``root_size`` is the size of the root partition
    in MiB (None: all of the card), ``data`` where the rest of the card is mounted.
    """

    name: str
    role: str
    board: Board
    address: IPv4Address | None
    interface: str = "eth0"
    wifi: Wifi | None = None
    layers: tuple[str, ...] = ()
    vars: Mapping[str, Value] = field(default_factory=dict)
    swap: Swap = field(default_factory=Swap)
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    config: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interfaces: tuple[HeaderInterface, ...] = ()
    journal: Journal = Journal.DEFAULT
    ca_certificates: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    root_size: int | None = None
    data: str | None = None
    ssh_port: int = SSH_PORT

    @property
    def host(self) -> str:
        """What the node is reached at on the LAN: its address, or its name in multicast DNS (RFC 6762)."""
        return str(self.address) if self.address else f"{self.name}.local"

    @property
    def lan_wifi(self) -> Wifi | None:
        """The wireless network that is the node's way to the LAN; None if it is wired."""
        return self.wifi if self.wifi and self.wifi.interface == self.interface else None


@dataclass(frozen=True)
class Cluster:
    """A checked cluster manifest. ``folder`` is its folder, to which its paths are relative.

    Either a node is the ``gateway``, or there is none, and ``router`` is the LAN's own router. ``lan6`` is
    the LAN's IPv6 network (RFC 4193); None: the manifest gives the nodes no IPv6 addresses.
    ``architecture`` is that of the base image (Debian's name), None if it is not known without the image.
    """

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
    gateway: Gateway | None
    nodes: tuple[Node, ...]
    layers: tuple[str, ...]
    vars: Mapping[str, Value]
    folder: Path
    digest: str  # sha256 of the manifest file's bytes, hex
    accounts: tuple[Account, ...] = ()
    router: IPv4Address | None = None
    lan6: IPv6Network | None = None
    architecture: str | None = None

    @property
    def interfaces(self) -> frozenset[str]:
        """All interfaces that the manifest configures, on any node."""
        names = {node.interface for node in self.nodes}
        names |= {self.gateway.uplink} if self.gateway else set()
        names |= {port_of(name) for name in names}
        return frozenset(names | {node.wifi.interface for node in self.nodes if node.wifi})

    def wired(self, node: Node) -> tuple[str, ...]:
        """The interfaces of ``node`` to the LAN and, on the gateway, to the internet."""
        uplink = (self.gateway.uplink,) if self.gateway and self.is_gateway(node) else ()
        return (node.interface, *uplink)

    def idle_ports(self, node: Node) -> tuple[str, ...]:
        """The ports of ``node`` that only carry its VLANs, and have no address themselves."""
        names = self.wired(node)
        return tuple(dict.fromkeys(port_of(name) for name in names if port_of(name) not in names))

    @property
    def gateway_node(self) -> Node | None:
        """The node that is the gateway; None if there is none."""
        return self.node(self.gateway.node) if self.gateway else None

    def is_gateway(self, node: Node) -> bool:
        """Whether ``node`` is the gateway."""
        return self.gateway is not None and self.gateway.node == node.name

    def address6(self, node: Node) -> IPv6Address | None:
        """The IPv6 address of ``node`` on the LAN: its last 32 bits are the IPv4 address (RFC 4291, 2.2).

        None without an IPv6 network, and for a node whose address is from DHCP.
        """
        if self.lan6 is None or node.address is None:
            return None
        return self.lan6[int(node.address)]

    def way_out(self, node: Node) -> IPv4Address | None:
        """The address that the default route of ``node`` leads to on the LAN; None on the gateway."""
        if self.gateway is None:
            return self.router
        return None if self.is_gateway(node) else self.node(self.gateway.node).address

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
    """The secrets that templates may use, and what is derived from them. Never printed.

    ``host_keys`` and ``wifi_psks`` are by node name, ``account_keys`` by account, ``ca_certificates``
    (PEM texts) by file; a PSK is 64 hex digits (IEEE 802.11i, PBKDF2 of
    the passphrase). ``secrets`` are the values of the manifest's named secrets.
    """

    host_keys: Mapping[str, KeyPair]
    gateway_key: KeyPair
    authorized_keys: tuple[str, ...]
    password_hash: str = field(repr=False)
    wifi_psks: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)
    account_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ca_certificates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wifi_fallback_psks: Mapping[str, str] = field(default_factory=dict, repr=False)


class Partition(StrEnum):
    """The two partitions of a base image that an overlay can change."""

    BOOT = "boot"
    ROOT = "root"


class Kind(StrEnum):
    """What an entry does to a node's file tree."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    REMOVE = "remove"
    LINES = "lines"  # each line is appended to a file that does not contain it yet
    WORDS = "words"  # each word is appended to a one-line file (cmdline.txt) that does not contain it yet
    NO_WORDS = "no words"  # each word is removed from a one-line file
    NETPLAN = "netplan"  # removes the base image's netplan files that set up an interface of the node


ADDING = (Kind.LINES, Kind.WORDS, Kind.NO_WORDS)
"""The kinds that change a part of a file of the base image, or of an earlier layer."""


@dataclass(frozen=True)
class Entry:
    """One change of an overlay at ``path`` (absolute within its partition, e.g. ``/etc/hostname``).

    ``content`` is the bytes of a FILE, the lines of LINES (each ending in a newline), or the words of
    WORDS and NO_WORDS or interfaces of NETPLAN separated by spaces. ``target`` is the target of a LINK.
    ``section`` is the heading under which LINES are added. If ``secret``, neither the content nor its digest
    is shown. ``optional``: the file that is changed or removed may be missing from the base image.
    ``download`` is the origin of the content of a FILE, or of what is in a DIRECTORY, until it is fetched.
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
    download: Download | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """sha256 of the content, hex; empty for a secret and for an entry without content."""
        if self.download and self.kind is Kind.FILE:
            return self.download.sha256
        if self.secret or self.kind not in (Kind.FILE, *ADDING):
            return ""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class NodePlan:
    """The plan of one node: its merged entries, in the order in which they are applied.

    ``descriptions`` has the ``description`` of each layer.toml that has one, by the name in ``layers``.
    ``software`` is put into the base image first.
    ``secrets`` are the names of the manifest's secrets that the node's templates use.
    ``architectures`` has those (Debian's names) of each layer that is not for all, by its name.
    """

    node: Node
    release: Release
    layers: tuple[str, ...]
    entries: tuple[Entry, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)
    software: Software = field(default_factory=Software)
    secrets: tuple[str, ...] = ()
    architectures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
