"""The plan: what each node gets, from manifest and overlays. Needs neither root, image nor network."""

import difflib
import functools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.boards import Medium
from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Credentials, Node, NodePlan, Release, Secret
from imagebuilder.networks import DHCPCD, NETWORK_MANAGER, Radio, WifiSecurity
from imagebuilder.overlay import build_scripts, settings
from imagebuilder.overlay import layer as layers
from imagebuilder.overlay.layer import Layer, Overlays
from imagebuilder.overlay.merge import merge
from imagebuilder.overlay.rendering import Rendering, TemplateRenderer
from imagebuilder.settings import Journal
from imagebuilder.software import Software

_log = logging.getLogger(__name__)

_ROLES = ("master", "worker")
"""The roles that piimg ships."""

_KEYS = ("gateway_key", "host_key")
"""What templates read like a secret, and the manifest does not name: keys that piimg makes."""


def layer_order(cluster: Cluster, node: Node, release: Release) -> tuple[str, ...]:
    """The names of a node's layers in merge order; a later layer overrides an earlier one."""
    role = ("worker", node.role) if _begins_as_worker(cluster, node) else (node.role,)
    facts = release.facts
    has_vlan = any("." in name for name in cluster.wired(node))
    order = (
        "base",
        *facts.layers,
        *([facts.network.layer] if facts.network.layer else []),
        *(["vlan"] if facts.network is DHCPCD and has_vlan else []),
        f"os-{release}",
        *facts.swap_layers.get(node.swap.kind, ()),
        *_setting_layers(cluster, node),
        *role,
        *cluster.layers,
        *node.layers,
        f"node-{node.name}",
    )
    return tuple(dict.fromkeys(order))


def _setting_layers(cluster: Cluster, node: Node) -> Iterator[str]:
    """The layers of the settings that the manifest has for the node."""
    if cluster.accounts:
        yield "accounts"
    if node.ca_certificates:
        yield "ca-certificates"
    if node.interfaces:
        yield "interfaces"
    if node.root_size is not None:
        yield "root-size"
    if node.journal is Journal.PERSISTENT:
        yield "journal-persistent"


def _begins_as_worker(cluster: Cluster, node: Node) -> bool:
    """Whether a node behind the gateway has a custom role: it also gets the shipped layer ``worker``.

    That layer has the key that opens the gateway, and takes the time from the gateway. The cluster's own
    layer ``worker``, if any, is not applied to it.
    """
    named = (*cluster.layers, *node.layers)
    is_own = node.role not in _ROLES and not {*_ROLES} & {*named}
    return is_own and cluster.gateway is not None and not cluster.is_gateway(node)


def plan_node(
    cluster: Cluster, node: Node, release: Release, credentials: Credentials, overlays: Overlays
) -> NodePlan:
    """The plan of one node for a base image of ``release``. Raises UsageError naming the faulty file."""
    return plan_nodes(cluster, [node], release, credentials, overlays)[0]


def plan_nodes(
    cluster: Cluster,
    nodes: Sequence[Node],
    release: Release,
    credentials: Credentials,
    overlays: Overlays,
    rendering: Rendering | None = None,
) -> list[NodePlan]:
    """The plans of ``nodes`` for a base image of ``release``; one process renders for all of them.

    That is ``rendering``, if it is given: it may have been started before, and is ended. Raises UsageError
    naming the faulty file.
    """
    plans = []
    for node in nodes:
        _check_release(cluster, node, release)
    read, known = functools.cache(layers.read), overlays.names()
    with rendering or Rendering() as rendering:
        for node in nodes:
            node_layers = [read(*one) for one in _layers(cluster, node, release, overlays, known)]
            architectures = _architectures(node, node_layers)
            software, renderer = _software(
                node,
                node_layers,
                functools.partial(TemplateRenderer, rendering, cluster, node, release, credentials),
            )
            entries = merge(node_layers, renderer, settings.entries(node, credentials, cluster.folder))
            names = tuple(layer.name for layer in node_layers)
            descriptions = {layer.name: text for layer in node_layers if (text := layer.declared.description)}
            secrets = tuple(_secrets(cluster, node, renderer.secrets_read()))
            _log.info(
                "%s: planned for %s: %d entries of %s", node.name, release, len(entries), " ".join(names)
            )
            plans.append(
                NodePlan(node, release, names, entries, descriptions, software, secrets, architectures)
            )
    check_architecture(plans, cluster.architecture, cluster.base)
    return plans


def _architectures(node: Node, node_layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """The architectures of each layer that is not for all. Raises UsageError if the board has none."""
    found: dict[str, tuple[str, ...]] = {
        layer.name: tuple(layer.declared.architectures)
        for layer in node_layers
        if layer.declared.architectures
    }
    for layer, wanted in found.items():
        if not {*wanted} & {*node.board.architectures}:
            raise UsageError(
                f"{node.name}: the layer {layer} needs {' or '.join(wanted)}, which {node.board.title} "
                "cannot boot",
                "remove the layer from this node, or correct its board",
            )
    return found


def check_architecture(plans: Sequence[NodePlan], architecture: str | None, base: str) -> None:
    """Raise UsageError if a layer is not for the ``architecture`` of the ``base`` image, if that is known."""
    for plan in plans:
        for layer, wanted in plan.architectures.items():
            if architecture and architecture not in wanted:
                raise UsageError(
                    f"{plan.node.name}: the layer {layer} needs {' or '.join(wanted)}, and {base} is "
                    f"{architecture}",
                    "choose another base image, or remove the layer from this node",
                )


def _secrets(cluster: Cluster, node: Node, read: Iterable[str]) -> Iterator[str]:
    """The names in the manifest of the secrets that the templates of a node have ``read``, by their names."""
    of_wifi = node.wifi.passphrase if node.wifi else None
    derived = {"wifi_psk": of_wifi, "password_hash": cluster.user.password}
    for name in read:
        if name not in _KEYS and (secret := derived.get(name, Secret(name))) is not None:
            yield secret.name


def _software(
    node: Node,
    node_layers: Sequence[Layer],
    renderer_with: Callable[[tuple[str, ...]], TemplateRenderer],
) -> tuple[Software, TemplateRenderer]:
    """The packages and build scripts of a node, by name, and the renderer that knows the packages.

    A condition of a package sees the packages that have none. Raises UsageError naming the faulty file.
    """
    packages = dict(node.packages)

    def add(layer: Layer, name: str) -> None:
        packages[name] = tuple(dict.fromkeys((*packages.get(name, ()), f"layer {layer.name}")))

    rules = [(layer, rule) for layer in node_layers for rule in layer.declared.packages]
    for layer, rule in rules:
        if rule.when is None:
            add(layer, rule.name)
    renderer = renderer_with(tuple(sorted(packages)))
    for layer, rule in rules:
        place = f"{layer.folder / 'layer.toml'}: when of the package {rule.name}"
        if rule.when is not None and renderer.holds(rule.when, place):
            add(layer, rule.name)
    if renderer.packages != (names := tuple(sorted(packages))):
        renderer = renderer_with(names)
    return Software({name: packages[name] for name in names}, build_scripts.merged(node_layers)), renderer


def _check_release(cluster: Cluster, node: Node, release: Release) -> None:
    """Raise UsageError if the network program of ``release`` cannot do what the manifest says of ``node``."""
    gateway = cluster.gateway
    if release.facts.network is not DHCPCD or gateway is None or not cluster.is_gateway(node):
        return
    if gateway.address and node.wifi and node.wifi.fallback and node.wifi.interface == gateway.uplink:
        raise UsageError(
            f"{node.name}: on {release} (dhcpcd) a static uplink_address is for every network of "
            f"{gateway.uplink}, so there can be no fallback network",
            "use DHCP on the uplink, omit [node.wifi.fallback], or take a newer release",
        )


def board_notes(node: Node, release: Release | None = None) -> Iterator[str]:
    """Notes on a node's board before its card is written. They are not errors: an adapter may be attached.

    ``release`` is that of the base image, if it is known.
    """
    board = node.board
    if board.medium is Medium.EMMC:
        yield f"{board.title} has eMMC and no card slot: use rpiboot to write the eMMC as a USB disk"
    elif board.medium is Medium.EITHER:
        yield (
            f"{board.title} with eMMC cannot read a card, only a Lite module in a carrier with a slot can; "
            "use rpiboot to write the eMMC as a USB disk"
        )
    if node.wifi and not board.wifi:
        lacks = "has no Wi-Fi" if board.wifi is False else "does not always have Wi-Fi"
        yield f"{board.title} {lacks}: {node.wifi.interface} then needs an adapter"
    if node.interface.startswith("e") and not board.wired:  # eth0, end0, enx…
        lacks = "has no wired port" if board.wired is False else "does not always have a wired port"
        yield f"{board.title} {lacks}: {node.interface} then needs an adapter"
    yield from _radio_notes(node, release)


def _radio_notes(node: Node, release: Release | None) -> Iterator[str]:
    """What the radio of the board cannot do with the security of the node's networks, or may not.

    From raspberrypi/linux: pull request 5945 (SAE by wpa_supplicant, Linux 6.6, firmware of 2023-08), issues
    6130 and 7528 (it fails on CYW43455), 7610 (no SAE on CYW43456), 4718 (no firmware for older chips).
    """
    kinds = [network.security for network in node.wifi.networks] if node.wifi else []
    board, radio = node.board, node.board.radio
    chip = f"the radio of {board.title}" + (f" ({radio})" if radio else "")
    adapter = "an adapter may be needed, or wpa2 in the network"
    is_adapter = node.wifi and (not board.wifi or node.wifi.interface != "wlan0")
    if WifiSecurity.WPA2 in kinds and is_adapter and release and release.facts.network is NETWORK_MANAGER:
        # it adds SAE to wpa-psk where the radio can do it, which then is chosen, and needs the passphrase
        yield (
            "WPA2: an adapter that can do WPA3 does not join a network with both by the derived key; "
            'if the network has both, set security = "wpa2/wpa3"'
        )
    if WifiSecurity.WPA3 in kinds:
        if release and not release.facts.wpa3:
            yield f"WPA3: the kernel and firmware of {release} have none for {chip}; {adapter}"
        elif radio is Radio.CYW43455:
            yield (
                f"WPA3: {chip} needs Linux 6.6 and current firmware, and failures are reported "
                "(raspberrypi/linux issues 6130, 7528); try it before you rely on it"
            )
        elif radio is Radio.CYW43456:
            yield f"WPA3: {chip} has none (raspberrypi/linux issue 7610); {adapter}"
        else:
            yield f"WPA3: there is no report that {chip} can do it; {adapter}"
    if WifiSecurity.OWE in kinds:
        yield f"OWE: there is no report that {chip} can do it; an adapter may be needed"


def _layers(
    cluster: Cluster, node: Node, release: Release, overlays: Overlays, known: Collection[str]
) -> Iterator[tuple[str, Path]]:
    """The layers of a node in merge order: displayed name and folder. ``known`` are those there are."""
    for name in layer_order(cluster, node, release):
        if name not in known:
            if name.startswith("node-"):
                continue
            raise UsageError(
                f"no layer is named {name}", f"create the folder overlays/{name}/, or correct the manifest"
            )
        only_shipped = name == "worker" and _begins_as_worker(cluster, node)
        for folder in (overlays.shipped,) if only_shipped else overlays.folders:
            if (folder / name).is_dir():
                shown = name if folder == overlays.shipped else f"{name} (own)"
                yield shown, folder / name


@dataclass(frozen=True)
class Idle:
    """A folder in the cluster's own overlays/ that no node uses; ``nearest`` is a similar name that is used.

    ``is_layer`` is False if the folder has none of the parts of a layer.
    """

    name: str
    nearest: str
    is_layer: bool = True

    @property
    def text(self) -> str:
        """The folder, what is wrong with it and what to do, in one sentence."""
        if not self.is_layer:
            return f"overlays/{self.name}/ is not a layer and is ignored: a layer has {_PARTS} or layer.toml"
        advice = f"; is {self.nearest} meant?" if self.nearest else "; list it in layers, or remove it"
        return f"no node uses the layer overlays/{self.name}/{advice}"


_PARTS = ", ".join(f"{tree}/" for tree in layers.TREES)


def idle_layers(cluster: Cluster, overlays: Overlays) -> Iterator[Idle]:
    """The folders in the cluster's own overlays/ that no node of the manifest uses, on any release."""
    if overlays.own in (None, overlays.shipped):
        return
    used: dict[str, None] = {}
    for node in cluster.nodes:
        for release in Release:
            used |= dict.fromkeys(layer_order(cluster, node, release))
    own = (overlays.own,) if overlays.own else ()
    for name in sorted(layers.names(own) - used.keys()):
        yield Idle(name, next(iter(difflib.get_close_matches(name, used, 1)), ""))
    for name in layers.strangers(own):
        yield Idle(name, "", is_layer=False)
