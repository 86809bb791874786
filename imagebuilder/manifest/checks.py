"""Checks across the tables of a cluster manifest: addresses, names, gateway, secrets, boards and layers."""

from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Address, IPv4Network

from imagebuilder.manifest.settings import SettingsShape
from imagebuilder.manifest.shape import ManifestShape, NodeShape, SecretShape
from imagebuilder.model import BOARDS, Secret
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
    yield from _names(manifest)
    yield from _addresses(manifest)
    yield from _gateway(manifest)
    yield from _roles(manifest)
    yield from _settings(manifest)
    yield from _accounts(manifest)
    yield from _secrets(manifest)
    yield from _boards(manifest, architecture(manifest.cluster.base))
    if layers is not None:
        yield from _layers(manifest, layers)


def _lan(lan: IPv4Network) -> Iterator[Problem]:
    if lan.prefixlen > 30:
        yield ("lan", "network"), f"{lan} is too small for a cluster; use a /30 or larger"
    elif lan.prefixlen < 8 or lan.is_loopback or lan.is_multicast or lan.is_reserved:
        yield ("lan", "network"), f'{lan} cannot be a LAN; use a private network such as "10.0.0.0/24"'


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
        if node.address in owners:
            yield place, f"{node.address} is already the address of {owners[node.address]}"
        if node.address not in lan:
            yield place, f"{node.address} is outside the LAN {lan}"
        elif node.address == lan.network_address:
            yield place, f"{node.address} is the network address of {lan}"
        elif node.address == lan.broadcast_address:
            yield place, f"{node.address} is the broadcast address of {lan}"
        owners.setdefault(node.address, node.name)


def _gateway(manifest: ManifestShape) -> Iterator[Problem]:
    gateways = [(index, node) for index, node in enumerate(manifest.node) if node.uplink]
    if not gateways:
        yield (
            ("node",),
            'no gateway: set uplink = "wlan0" on the node that reaches the internet',
        )
    for index, node in gateways[1:]:
        yield ("node", index, "uplink"), f"two gateways: {gateways[0][1].name} and {node.name}"
    for index, node in enumerate(manifest.node):
        if node.uplink and "master" not in (node.role, *node.layers, *manifest.cluster.layers):
            yield (
                ("node", index, "uplink"),
                'the layer master sets up the gateway: set role = "master", or list master in layers',
            )
        if node.uplink == node.interface:
            yield ("node", index, "uplink"), f"{node.uplink} is also the LAN interface"
        elif node.uplink and node.uplink.startswith("wl") and not node.wifi:
            yield ("node", index, "uplink"), f"{node.uplink} is wireless, but the node has no [node.wifi]"
        if node.wifi and node.wifi.interface == node.interface:
            yield ("node", index, "wifi"), f"{node.interface} is also the LAN interface"


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


def _secrets(manifest: ManifestShape) -> Iterator[Problem]:
    named: list[tuple[Place, object]] = [(("user", "password"), manifest.user.password)]
    named += [(("vars", key), value) for key, value in manifest.vars.items()]
    for index, node in enumerate(manifest.node):
        named.append((("node", index, "wifi", "passphrase"), node.wifi.passphrase if node.wifi else None))
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
    for at, layer in enumerate(manifest.cluster.layers):
        if layer not in layers:
            yield (
                ("cluster", "layers", at),
                f"no layer is named {layer}{did_you_mean(layer, layers) or known}",
            )
    for index, node in enumerate(manifest.node):
        if node.role not in layers:
            missing = f"no layer for the role {node.role}: create overlays/{node.role}/"
            yield ("node", index, "role"), missing + did_you_mean(node.role, layers)
        for at, layer in enumerate(node.layers):
            if layer not in layers:
                missing = f"no layer is named {layer}{did_you_mean(layer, layers) or known}"
                yield ("node", index, "layers", at), missing
