"""The shape of a cluster manifest: its tables, keys and types. Unknown keys are refused."""

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, IPv6Network, ip_interface
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from imagebuilder.boards import BOARDS
from imagebuilder.manifest import regions
from imagebuilder.manifest.keys import key_or_file
from imagebuilder.manifest.settings import MountShape, SettingsShape
from imagebuilder.model import Release, Secret
from imagebuilder.networks import WifiSecurity
from imagebuilder.settings import KeyFile, Policy, Swap, SwapKind
from imagebuilder.software import check_package

_UNIQUE_LOCAL = IPv6Network("fd00::/8")


def _matching(pattern: str, meaning: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            shown = value if len(value) <= 60 else f"{value[:59]}…"
            raise ValueError(f"{shown!r} is not {meaning}")
        return value

    return AfterValidator(check)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("contains a control character")
    return value


def _ssid(value: str) -> str:
    if not 1 <= len(value.encode()) <= 32:
        raise ValueError(f"{value[:40]!r} is not a network name (SSID) of 1 to 32 bytes")
    return value


def _address(value: object) -> str:
    """Refuse a number, which ipaddress would accept as an address."""
    if not isinstance(value, str):
        raise ValueError('takes an IPv4 address such as "10.0.0.1"')
    return value


def _node_address(value: object) -> IPv4Address | None:
    """The address of a node; None for ``"dhcp"``."""
    if value == "dhcp":
        return None
    try:
        return IPv4Address(_address(value))
    except AddressValueError:
        raise ValueError('is not an IPv4 address such as "10.0.0.1", or "dhcp"') from None


def _interface_address(value: object) -> object:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError('takes an IPv4 address with the prefix of its network, such as "192.168.1.50/24"')
    return value


def _network(value: object) -> object:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError('takes an IPv4 network such as "10.0.0.0/24"')
    try:
        network = ip_interface(value).network
    except ValueError:
        return value  # refused by the type itself
    if str(network.network_address) != value.partition("/")[0]:
        raise ValueError(f"{value} is the address of a machine; the network is {network}")
    return value


def _network6(value: object) -> IPv6Network:
    """A unique local network of 64 bits (RFC 4193)."""
    wrong = 'takes a unique local IPv6 network of 64 bits (RFC 4193), such as "fd12:3456:789a:1::/64"'
    try:
        network = IPv6Network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(wrong) from None
    if network.prefixlen != 64 or network.network_address not in _UNIQUE_LOCAL:
        raise ValueError(wrong)
    return network


def _secret(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError('takes { secret = "NAME" }: the value of a secret does not belong in the manifest')
    return value


def _variable(value: object) -> object:
    """Check a variable. A pydantic union would report one error for each of its types."""
    if isinstance(value, dict):
        return SecretShape.model_validate(value).get()
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    raise ValueError('takes text, a whole number of 64 bits, true, false, or { secret = "NAME" }')


def _swap(value: object) -> Swap:
    """The swap for ``"512M"`` (a file of 512 MiB), or for one of the kinds by name."""
    if value in (SwapKind.DEFAULT, SwapKind.OFF, SwapKind.ZRAM):
        return Swap(SwapKind(str(value)))
    size = re.fullmatch(r"([1-9][0-9]{0,5})([MG])", value, re.ASCII) if isinstance(value, str) else None
    mib = int(size[1]) * (1024 if size[2] == "G" else 1) if size else 0
    if not 16 <= mib <= 64 << 10:
        raise ValueError('takes "default", "off", "zram", or a size from "16M" to "64G" such as "512M"')
    return Swap(SwapKind.FILE, mib)


Text = Annotated[str, AfterValidator(_printable)]
# RFC 1123 section 2.1 and RFC 952: letters, digits, inner hyphens, at most 63. localhost is reserved.
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
Hostname = Annotated[str, _matching(rf"(?!(?i:localhost)$){_LABEL}", "a hostname (RFC 1123)")]
Domain = Annotated[str, _matching(rf"(?=.{{1,189}}$){_LABEL}(\.{_LABEL})*", "a domain name (RFC 1123)")]
_WORD = "[a-z0-9][a-z0-9._-]*"
LayerName = Annotated[str, _matching(f"{_WORD}(/{_WORD})?", "a layer name")]
# userconf-pi's own rule for the name in userconf.txt.
UserName = Annotated[str, _matching(r"(?!root$)[a-z][a-z0-9-]{0,31}", "a user name (a-z, 0-9, -; not root)")]
# Debian's rule (useradd(8)), without the names that a base image has (base-passwd, and its packages).
_TAKEN = """
    root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody
    messagebus sshd avahi polkitd tss pi piimg-gateway dnsmasq dhcpcd chrony
"""
AccountName = Annotated[
    str,
    _matching(
        rf"(?!({'|'.join(_TAKEN.split())})$)(?!systemd-)[a-z][a-z0-9_-]{{0,31}}",
        "the name of an account of your own (a-z, 0-9, _, -; not that of a system account)",
    ),
]
GroupName = Annotated[str, _matching(r"[a-z_][a-z0-9_-]{0,31}", "the name of a group (a-z, 0-9, _, -)")]
_PORT = "[a-zA-Z][a-zA-Z0-9_-]{0,14}"
Interface = Annotated[str, _matching(_PORT, "a network interface name such as wlan0")]
# 15 characters at most (IFNAMSIZ); 0 and 4095 are no VLANs (IEEE 802.1Q)
_VLAN = r"(\.(?!409[5-9])([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-9]{2}))?"
PortOrVlan = Annotated[
    str,
    _matching(
        rf"(?=.{{1,15}}$)(?!wl.*\.){_PORT}{_VLAN}",
        "a network interface such as eth0, or a VLAN such as eth0.10",
    ),
]
Country = Annotated[str, AfterValidator(regions.country)]
TimeZone = Annotated[str, AfterValidator(regions.timezone)]
Locale = Annotated[str, AfterValidator(regions.locale)]
Keyboard = Annotated[str, AfterValidator(regions.keyboard)]
Name = Annotated[str, _matching(r"[a-z][a-z0-9_]*", "a name of a-z, 0-9 and _")]
KeyOrFile = Annotated[str | KeyFile, PlainValidator(key_or_file)]
Ssid = Annotated[Text, AfterValidator(_ssid)]
Address = Annotated[IPv4Address, BeforeValidator(_address)]
NodeAddress = Annotated[IPv4Address | None, PlainValidator(_node_address)]
Network6 = Annotated[IPv6Network, PlainValidator(_network6)]
InterfaceAddress = Annotated[IPv4Interface, BeforeValidator(_interface_address)]
Network = Annotated[IPv4Network, BeforeValidator(_network)]
SwapSetting = Annotated[Swap, PlainValidator(_swap)]
PackageName = Annotated[str, AfterValidator(check_package)]
Variable = Annotated[str | int | bool | Secret, PlainValidator(_variable)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretShape(_Shape):
    """``{ secret = "NAME" }``."""

    secret: Name

    def get(self) -> Secret:
        """The secret's name, as ``model.Secret``."""
        return Secret(self.secret)


_Secret = Annotated[SecretShape, BeforeValidator(_secret)]


class ClusterShape(_Shape, SettingsShape):
    """``[cluster]``."""

    name: Hostname
    domain: Domain | None = None
    base: Text
    release: Release | None = None
    timezone: TimeZone = "Etc/UTC"
    locale: Locale = "C.UTF-8"
    keyboard: Keyboard = "us"
    swap: SwapSetting = Swap()
    layers: list[LayerName] = []
    packages: list[PackageName] = []


class RoleShape(_Shape, SettingsShape):
    """``[role.NAME]``: what all nodes of a role get."""

    layers: list[LayerName] = []
    packages: list[PackageName] = []


class LanShape(_Shape):
    """``[lan]``."""

    network: Network
    dns: Annotated[list[Address], Field(min_length=1)]
    router: Address | None = None
    ipv6: Network6 | None = None


class UserShape(_Shape):
    """``[user]``."""

    name: UserName
    password: _Secret | None = None
    authorized_keys: list[KeyOrFile] = []


class AccountShape(_Shape):
    """``[[account]]``."""

    name: AccountName
    groups: list[GroupName] = []
    authorized_keys: Annotated[list[KeyOrFile], Field(min_length=1)]


class GatewayShape(_Shape):
    """``[gateway]``."""

    policy: Policy = Policy.ON_DEMAND


class WifiNetworkShape(_Shape):
    """``[node.wifi.fallback]``."""

    ssid: Ssid
    passphrase: _Secret | None = None
    security: WifiSecurity | None = None
    hidden: bool = False


class WifiShape(WifiNetworkShape):
    """``[node.wifi]``."""

    country: Country
    interface: Interface = "wlan0"
    fallback: WifiNetworkShape | None = None


class NodeShape(_Shape, SettingsShape):
    """``[[node]]``."""

    name: Hostname
    role: LayerName
    board: Literal[tuple(BOARDS)]  # type: ignore[valid-type]  # the table is the one list of boards
    address: NodeAddress
    interface: PortOrVlan = "eth0"
    uplink: PortOrVlan | None = None
    uplink_address: InterfaceAddress | None = None
    uplink_router: Address | None = None
    wifi: WifiShape | None = None
    layers: list[LayerName] = []
    vars: dict[Name, Variable] = {}
    swap: SwapSetting | None = None
    packages: list[PackageName] = []


class ManifestShape(_Shape):
    """The whole file."""

    cluster: ClusterShape
    lan: LanShape
    user: UserShape
    gateway: GatewayShape | None = None
    vars: dict[Name, Variable] = {}
    role: dict[LayerName, RoleShape] = {}
    account: list[AccountShape] = []
    node: Annotated[list[NodeShape], Field(min_length=1)]


KEYS = frozenset(
    field
    for shape in (
        *(ManifestShape, ClusterShape, LanShape, UserShape, GatewayShape, RoleShape, AccountShape),
        *(NodeShape, WifiShape, MountShape),
    )
    for field in shape.model_fields
)
"""The keys of all tables."""

NODE_STAND_IN = {"name": "another-node", "role": "base", "board": next(iter(BOARDS)), "address": "0.0.0.0"}
_LAN_STAND_IN = {"network": "0.0.0.0/0", "dns": ["0.0.0.0"]}
_ROUTER_STAND_IN = {"router": "0.0.0.0"}  # optional, but without it another key would be required
STAND_INS: dict[str, object] = {
    **NODE_STAND_IN,
    **_LAN_STAND_IN,
    **_ROUTER_STAND_IN,
    "cluster": {"name": "unnamed", "base": "unnamed"},
    "lan": _LAN_STAND_IN,
    "user": {"name": "unnamed"},
    "node": [NODE_STAND_IN],
    "base": "unnamed",
    "ssid": "unnamed",
    "country": "GB",
    "secret": "unnamed",
    "authorized_keys": ["unnamed.pub"],
    "source": "tmpfs",
    "path": "/srv/unnamed",
    "type": "tmpfs",
}
"""By key: the replacement for a wrong required value, so that the rest of the manifest can be checked."""
