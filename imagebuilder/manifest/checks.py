"""Checks across the tables of a cluster manifest: addresses, names, gateway, secrets, boards and layers."""

from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Address, IPv4Network

from imagebuilder.boards import BOARDS
from imagebuilder.manifest.settings import SettingsShape
from imagebuilder.manifest.shape import ManifestShape, NodeShape, SecretShape, WifiNetworkShape
from imagebuilder.model import Secret
from imagebuilder.networks import port_of
from imagebuilder.settings import MODEL_FILTERS, HeaderInterface
from imagebuilder.text import did_you_mean
from imagebuilder.toml import Place, Problem

RESERVED_SECRETS = frozenset({"host_key", "gateway_key", "password_hash"})
"""Names of the secrets that piimg generates for templates."""


def problems(
    manifest: ManifestShape, layers: Collection[str] | None, architecture: Callable[[str], str | None]
) -> Iterator[Problem]:
    """Yield each contradiction in the manifest; ``layers`` and ``architecture`` as in ``manifest.load``."""
    yield from _lan(manifest.lan.network)
    yield from _router(manifest)
    yield from _names(manifest)
    yield from _addresses(manifest)
    yield from _gateway(manifest)
    yield from _roles(manifest)
    yield from _settings(manifest)
    yield from _accounts(manifest)
    yield from _wifi(manifest)
    yield from _secrets(manifest)
    yield from _boards(manifest, architecture(manifest.cluster.base))
    if layers is not None:
        yield from _layers(manifest, layers)


def _lan(lan: IPv4Network) -> Iterator[Problem]:
    if lan.prefixlen > 30:
        yield ("lan", "network"), f"{lan} is too small for a cluster; use a /30 or larger"
    elif lan.prefixlen < 8 or lan.is_loopback or lan.is_multicast or lan.is_reserved:
        yield ("lan", "network"), f'{lan} cannot be a LAN; use a private network such as "10.0.0.0/24"'


def _router(manifest: ManifestShape) -> Iterator[Problem]:
    lan, router = manifest.lan.network, manifest.lan.router
    if router is None:
        return
    place = ("lan", "router")
    if wrong := _outside(router, lan):
        yield place, wrong
    for node in manifest.node:
        if node.address == router:
            yield place, f"{router} is the address of {node.name}"
    if manifest.gateway is not None:
        yield ("gateway",), "with lan.router there is no gateway: remove this table"


def _outside(address: IPv4Address, lan: IPv4Network) -> str:
    """Why ``address`` cannot be that of a machine on ``lan``; empty if it can."""
    if address not in lan:
        return f"{address} is outside the LAN {lan}"
    if address == lan.network_address:
        return f"{address} is the network address of {lan}"
    return f"{address} is the broadcast address of {lan}" if address == lan.broadcast_address else ""


def _names(manifest: ManifestShape) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, node in enumerate(manifest.node):
        if node.name.lower() in seen:
            yield ("node", index, "name"), f"two nodes are called {node.name}"
        seen.add(node.name.lower())


def _addresses(manifest: ManifestShape) -> Iterator[Problem]:
    lan = manifest.lan.network
    owners: dict[IPv4Address, str] = {}
    for index, node in enumerate(manifest.node):
        place = ("node", index, "address")
        if node.address is None:
            if manifest.lan.router is None:
                yield (
                    place,
                    '"dhcp" needs a router on the LAN that gives addresses (lan.router): a gateway does not',
                )
            continue
        if node.address in owners:
            yield place, f"{node.address} is already the address of {owners[node.address]}"
        if wrong := _outside(node.address, lan):
            yield place, wrong
        owners.setdefault(node.address, node.name)


def _gateway(manifest: ManifestShape) -> Iterator[Problem]:
    gateways = [(index, node) for index, node in enumerate(manifest.node) if node.uplink]
    if manifest.lan.router is not None:
        for index, _ in gateways:
            yield (
                ("node", index, "uplink"),
                f"lan.router {manifest.lan.router} is the way out of all nodes: remove it, or this uplink",
            )
        gateways = []
    elif not gateways:
        yield (
            ("node",),
            'no way out: set uplink = "wlan0" on the node that is to be the gateway; without a gateway set '
            'router = "ADDRESS" in [lan], the address of your router',
        )
    for index, node in gateways[1:]:
        yield ("node", index, "uplink"), f"two gateways: {gateways[0][1].name} and {node.name}"
    for index, node in enumerate(manifest.node):
        named = (node.role, *manifest.cluster.layers, *node_layers(manifest, node))
        if node.uplink and "master" not in named:
            yield (
                ("node", index, "uplink"),
                'the layer master sets up the gateway: set role = "master", or list master in layers',
            )
        if node.uplink == node.interface:
            yield ("node", index, "uplink"), f"{node.uplink} is also the LAN interface"
        elif node.uplink and node.uplink.startswith("wl") and not node.wifi:
            yield ("node", index, "uplink"), f"{node.uplink} is wireless, but the node has no [node.wifi]"
        elif (
            node.wifi and node.uplink and node.uplink.startswith("wl") and node.wifi.interface != node.uplink
        ):
            yield (
                ("node", index, "uplink"),
                f"{node.uplink} is wireless, but [node.wifi] is for another interface",
            )
        if node.interface.startswith("wl") and (not node.wifi or node.wifi.interface != node.interface):
            yield (
                ("node", index, "interface"),
                f"{node.interface} is wireless, but the node has no [node.wifi] for it",
            )
        ports = {port_of(name) for name in (node.interface, node.uplink) if name and "." in name}
        if len(ports - {node.interface, node.uplink}) > 1:
            yield (
                ("node", index, "uplink"),
                f"{node.uplink} and {node.interface} are VLANs of two ports: use VLANs of one port",
            )
        yield from _uplink_address(node, index, manifest.lan.network)


def _uplink_address(node: NodeShape, index: int, lan: IPv4Network) -> Iterator[Problem]:
    """The contradictions of a static address on the uplink."""
    address, router = node.uplink_address, node.uplink_router
    place = ("node", index, "uplink_address")
    if address is None or router is None:
        if address is not None:
            yield place, 'uplink_router is missing: the address of the router there, such as "192.168.1.1"'
        if router is not None:
            yield ("node", index, "uplink_router"), "uplink_address is missing, so DHCP gives the router"
        return
    if not node.uplink:
        yield place, f"{node.name} has no uplink: remove this address, or set uplink"
    if address.network.overlaps(lan):
        yield place, f"{address.network} overlaps the LAN {lan}: a gateway joins two networks"
    elif wrong := _outside(address.ip, address.network):
        yield place, wrong.replace("LAN", "network")
    elif wrong := _outside(router, address.network):
        yield ("node", index, "uplink_router"), wrong.replace("LAN", "network of uplink_address,")
    elif router == address.ip:
        yield ("node", index, "uplink_router"), f"{router} is the address of {node.name} itself"


def _wifi(manifest: ManifestShape) -> Iterator[Problem]:
    for index, node in enumerate(manifest.node):
        place: Place = ("node", index, "wifi")
        if node.wifi:
            yield from _wifi_network(node.wifi, place)
            if node.wifi.fallback:
                yield from _wifi_network(node.wifi.fallback, (*place, "fallback"))
                if node.wifi.fallback.ssid == node.wifi.ssid:
                    yield (*place, "fallback", "ssid"), "is the network that it is to replace"


def _wifi_network(network: WifiNetworkShape, place: Place) -> Iterator[Problem]:
    security = network.security
    if security and security.has_passphrase and network.passphrase is None:
        yield (
            (*place, "security"),
            f'{security} needs passphrase = {{ secret = "NAME" }}; without one a network is "open" or "owe"',
        )
    elif security and not security.has_passphrase and network.passphrase is not None:
        yield (*place, "security"), f"a network that is {security} has no passphrase: remove one of the two"


def _roles(manifest: ManifestShape) -> Iterator[Problem]:
    roles = {node.role for node in manifest.node}
    for role in manifest.role.keys() - roles:
        yield ("role", role), f"no node has the role {role}{did_you_mean(role, roles)}"


def _settings(manifest: ManifestShape) -> Iterator[Problem]:
    for index, node in enumerate(manifest.node):
        for name in node.config:
            if name in MODEL_FILTERS and node.board not in MODEL_FILTERS[name]:
                boards = ", ".join(sorted(MODEL_FILTERS[name]))
                yield ("node", index, "config", name), f"{node.board} ignores [{name}], which is for {boards}"
        yield from _mounts(manifest, index, node)
        named = {name for level in levels(manifest, node) for name in level.interfaces}
        if {HeaderInterface.SERIAL, HeaderInterface.SERIAL_CONSOLE} <= named:
            yield (
                ("node", index, "interfaces"),
                f"{node.name} has serial, for programs, and serial-console; the port serves one of them",
            )


def _mounts(manifest: ManifestShape, index: int, node: NodeShape) -> Iterator[Problem]:
    """Two mounts at one path, and a mount over the home of an account, which would hide its keys."""
    own = levels(manifest, node)
    paths = [mount.path for level in own for mount in level.mount]
    data = [level.data for level in own if level.data is not None]
    if data and not any(level.root_size for level in own):
        yield ("node", index, "data"), f"{node.name} needs root_size: without it, root takes the whole card"
    homes = {f"/home/{name}" for name in ("pi", manifest.user.name, *(one.name for one in manifest.account))}
    seen: set[str] = set()
    for path in (*paths, *data[-1:]):
        if path in seen:
            yield ("node", index, "mount"), f"{node.name} has two mounts at {path}"
        if path in homes:
            yield ("node", index, "mount"), f"a mount at {path} would hide the account's keys"
        seen.add(path)


def _accounts(manifest: ManifestShape) -> Iterator[Problem]:
    seen = {manifest.user.name}
    for index, account in enumerate(manifest.account):
        if account.name in seen:
            yield ("account", index, "name"), f"two accounts are called {account.name}"
        seen.add(account.name)


def levels(manifest: ManifestShape, node: NodeShape) -> list[SettingsShape]:
    """The tables with settings for ``node``, the nearest last."""
    role = manifest.role.get(node.role)
    return [manifest.cluster, *([role] if role else []), node]


def node_layers(manifest: ManifestShape, node: NodeShape) -> tuple[str, ...]:
    """The layers that the role of ``node`` names, and then those of its own."""
    role = manifest.role.get(node.role)
    return (*(role.layers if role else ()), *node.layers)


def _secrets(manifest: ManifestShape) -> Iterator[Problem]:
    named: list[tuple[Place, object]] = [(("user", "password"), manifest.user.password)]
    named += [(("vars", key), value) for key, value in manifest.vars.items()]
    for index, node in enumerate(manifest.node):
        if node.wifi:
            named.append((("node", index, "wifi", "passphrase"), node.wifi.passphrase))
            fallback = node.wifi.fallback
            named.append(
                (("node", index, "wifi", "fallback", "passphrase"), fallback and fallback.passphrase)
            )
        named += [(("node", index, "vars", key), value) for key, value in node.vars.items()]
    for place, value in named:
        secret = value.get() if isinstance(value, SecretShape) else value
        if isinstance(secret, Secret) and secret.name in RESERVED_SECRETS:
            yield place, f"{secret.name} is reserved for a secret that piimg generates; choose another name"


def _boards(manifest: ManifestShape, architecture: str | None) -> Iterator[Problem]:
    for index, node in enumerate(manifest.node):
        board = BOARDS[node.board]
        if architecture is not None and architecture not in board.architectures:
            required = " or ".join(board.architectures)
            yield (
                ("node", index, "board"),
                f"{board.title} cannot boot {manifest.cluster.base} ({architecture}); it needs {required}",
            )


def _layers(manifest: ManifestShape, layers: Collection[str]) -> Iterator[Problem]:
    known = f" (available: {', '.join(sorted(layers))})"
    tables: list[tuple[Place, list[str]]] = [(("cluster", "layers"), manifest.cluster.layers)]
    tables += [(("role", name, "layers"), role.layers) for name, role in manifest.role.items()]
    tables += [(("node", index, "layers"), node.layers) for index, node in enumerate(manifest.node)]
    for place, named in tables:
        for at, layer in enumerate(named):
            if layer not in layers:
                missing = f"no layer is named {layer}{did_you_mean(layer, layers) or known}"
                yield (*place, at), missing
    for index, node in enumerate(manifest.node):
        if node.role not in layers:
            missing = f"no layer for the role {node.role}: create overlays/{node.role}/"
            yield ("node", index, "role"), missing + did_you_mean(node.role, layers)
