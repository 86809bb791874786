"""The network files of a plan, parsed."""

import configparser
import dataclasses
import functools
from collections.abc import Mapping

from imagebuilder import resources
from imagebuilder.keys import derive
from imagebuilder.keys.credentials import named_secrets
from imagebuilder.model import Entry, Kind, NodePlan, Partition, Release
from imagebuilder.overlay import layer
from imagebuilder.plan import plan_nodes
from tests.integration.overlays import rendered
from tests.support.networks import cluster

KEYFILES = (Release.BOOKWORM, Release.TRIXIE)


PROFILES = "/etc/NetworkManager/system-connections"


def planned(text: str, node: str, release: Release, passphrase: str = rendered.PASSPHRASE) -> NodePlan:
    """The plan of a node of the manifest ``text``; every network has the same passphrase."""
    return plans_of(text, release, passphrase)[node]


@functools.cache
def plans_of(text: str, release: Release, passphrase: str) -> Mapping[str, NodePlan]:
    """The plans of the nodes of the manifest ``text``, by name."""
    given = cluster(text)
    wifi = [(node.name, node.wifi) for node in given.nodes if node.wifi]
    keys = dataclasses.replace(
        rendered.credentials(),
        secrets=dict.fromkeys(named_secrets(given), passphrase),
        wifi_psks={name: derive.wifi_psk(one.ssid, passphrase) for name, one in wifi},
        wifi_fallback_psks={
            name: derive.wifi_psk(one.fallback.ssid, passphrase) for name, one in wifi if one.fallback
        },
    )
    chosen = [node for node in given.nodes if node.name not in ("worker3", "worker5")]
    overlays = layer.Overlays(resources.shipped("overlays"))
    return {
        plan_node.node.name: plan_node for plan_node in plan_nodes(given, chosen, release, keys, overlays)
    }


def keyfile(plan: NodePlan, name: str) -> configparser.RawConfigParser:
    """A keyfile of the plan."""
    return parsed(rendered.files(plan)[f"{PROFILES}/{name}.nmconnection"].content)


def parsed(content: bytes) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.read_string(content.decode())
    return parser


def unescaped(value: str) -> str:
    """A value of a keyfile as GLib reads it (g_key_file_get_string)."""
    return value.replace("\\\\", "\0").replace("\\s", " ").replace("\0", "\\")


def dhcpcd(plan: NodePlan) -> dict[str, list[str]]:
    """The lines that the plan adds to dhcpcd.conf, by section."""
    found: dict[str, list[str]] = {}
    for entry in added(plan, "/etc/dhcpcd.conf"):
        found.setdefault(entry.section, []).extend(entry.content.decode().splitlines())
    return found


def added(plan: NodePlan, path: str) -> list[Entry]:
    """The entries that add lines to a file of the root partition."""
    return [e for e in plan.entries if (e.partition, e.path, e.kind) == (Partition.ROOT, path, Kind.LINES)]


def wpa_networks(plan: NodePlan) -> list[dict[str, str]]:
    """The networks of the plan's wpa_supplicant.conf."""
    found: list[dict[str, str]] = []
    content = rendered.files(plan)["/etc/wpa_supplicant/wpa_supplicant.conf"].content.decode()
    for line in content.splitlines():
        if line == "network={":
            found.append({})
        elif found and "=" in line and not line.strip().startswith("#"):
            key, _, value = line.strip().partition("=")
            found[-1][key] = value
    return found
