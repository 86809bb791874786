"""The facts of a running node, as the node reports them.

``probe.py`` collects them, ``expected.py`` has the expected state, and ``checks.py`` compares the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Address:
    """An address of an interface. ``dynamic``: it has a limited lifetime, such as one from DHCP."""

    local: str
    prefixlen: int
    scope: str = ""
    dynamic: bool = False


@dataclass(frozen=True)
class Link:
    """A network interface with its addresses."""

    ifname: str
    addr_info: tuple[Address, ...] = ()


@dataclass(frozen=True)
class Route:
    """A route of the main table; ``dst`` is "default" or a network."""

    dst: str
    dev: str = ""
    gateway: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class Profile:
    """The NetworkManager profile of the LAN interface. ``method`` is how it gets its IPv4 address
    (``manual``, ``auto``, …); ``file`` is its keyfile, or the file that netplan generated for it."""

    uuid: str
    method: str
    file: str


@dataclass(frozen=True)
class Script:
    """The state of a first-boot script (docs/first-boot.md)."""

    name: str
    needs: str
    status: str
    attempts: int
    exit_status: int | None
    said: str = ""


@dataclass(frozen=True)
class Summary:
    """piimg-firstboot.json of the boot partition."""

    cluster: str
    node: str
    boots: int
    finished: bool
    scripts: tuple[Script, ...]


@dataclass(frozen=True)
class Ran:
    """A line of the first-boot log: a script was started (``status`` None), or ended with ``status``."""

    name: str
    status: int | None


@dataclass(frozen=True)
class AccountFacts:
    """The account with UID 1000."""

    name: str
    gid: int
    home: str
    shell: str


@dataclass(frozen=True)
class ExtraAccount:
    """An account besides the cluster's."""

    name: str
    uid: int
    home: str
    shell: str
    groups: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class DiskFacts:
    """The root disk: its size, and the start and length of the root partition, in sectors of 512 bytes."""

    size: int
    start: int
    length: int


@dataclass(frozen=True)
class SwapArea:
    """A line of /proc/swaps: ``kind`` is "file" or "partition" (any block device), ``kib`` its size in KiB.

    ``backing`` is the backing device of a zram device; "none" when there is none, and for other swap areas.
    """

    name: str
    kind: str
    kib: int
    backing: str


@dataclass(frozen=True)
class Unit:
    """The state of a unit, in the terms of systemd."""

    id: str
    load: str
    active: str
    result: str
    enabled: str


@dataclass(frozen=True)
class Mode:
    """Mode and owner of a path."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Chain:
    """A chain of nftables; ``table`` includes its family."""

    table: str
    chain: str


@dataclass(frozen=True)
class GatewayFacts:
    """`piimg-gateway status --json`."""

    open: bool
    stopped_by: Chain | None
    problems: tuple[str, ...]
    policy: str
    users: tuple[str, ...]
    lan: str
    lan_interface: str
    uplink: str


@dataclass(frozen=True)
class RootFacts:
    """Facts that only root can read. ``password`` is the sha256 of the account's password hash, hex.

    ``journal`` are the files of the journal, ``ssh_ports`` the ports of sshd, ``ca_certificates`` the files
    of the plan that are in the bundle of trusted certificates.
    """

    password: str = field(repr=False)
    disk_id: str
    file_system: int  # bytes; 0 when it is not known
    sshd: Mapping[str, str]
    modes: Mapping[str, Mode]
    chrony: tuple[str, ...]
    gateway: GatewayFacts | None
    tables: tuple[str, ...]
    journal: tuple[str, ...] = ()
    ssh_ports: tuple[str, ...] = ()
    accounts: tuple[ExtraAccount, ...] = ()
    ca_certificates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """All facts of a node. ``links`` and ``routes`` are those of IPv4, ``routes6`` IPv6's default routes.

    Tuples of str are lines as printed by the node; ``root`` is None without sudo.
    ``packages`` has the state of each package that was asked for and is known to dpkg, by name.
    ``mounted`` are paths and types of file systems.
    """

    hostname: str
    hostname_file: str
    boot_id: str
    machine_id: str
    login: str
    account: AccountFacts | None
    groups: tuple[str, ...]
    links: tuple[Link, ...]
    routes: tuple[Route, ...]
    links6: tuple[Link, ...]
    routes6: tuple[Route, ...]
    profile: Profile | None
    leases: tuple[str, ...]
    resolv: tuple[str, ...]
    hosts: tuple[str, ...]
    known_hosts: tuple[str, ...]
    presented: tuple[str, ...]
    offered: tuple[str, ...]
    authorized: tuple[str, ...]
    timezone: str
    timezone_file: str
    lang_at_login: str
    lang: tuple[str, ...]
    locales: tuple[str, ...]
    keyboard: str
    ntp: str
    ntp_synchronized: str
    ntp_servers: tuple[str, ...]
    disk: DiskFacts | None
    fstab: tuple[str, ...]
    mounted: tuple[tuple[str, str], ...]
    cmdline: tuple[str, ...]
    swaps: tuple[SwapArea, ...]
    on_boot: tuple[str, ...]
    identity: Mapping[str, Any] | None
    summary: Summary | None
    stamps: tuple[str, ...]
    ran: tuple[Ran, ...]
    system: str
    jobs: tuple[str, ...]
    failed: tuple[str, ...]
    units: tuple[Unit, ...]
    packages: Mapping[str, str]
    root: RootFacts | None

    def link(self, name: str) -> Link:
        """The interface called ``name``; without addresses when there is none."""
        return next((link for link in self.links if link.ifname == name), Link(name))
