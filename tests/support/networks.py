"""Manifests of clusters on other networks than that of the README, made from its manifest."""

from pathlib import Path

from imagebuilder import manifest, resources
from imagebuilder.model import Cluster

PICLUSTER = (resources.shipped("manifests") / "picluster.toml").read_text()


def changed(text: str, *changes: tuple[str, str]) -> str:
    """``text`` with each change made everywhere; each must change something."""
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return text


def cluster(text: str) -> Cluster:
    """The cluster of a manifest."""
    return manifest.parse(text.encode(), Path("cluster.toml"))


AT_HOME = changed(
    PICLUSTER,
    ('network = "10.0.0.0/24"', 'network = "192.168.1.0/24"\nrouter = "192.168.1.1"'),
    ('[gateway]\npolicy = "on-demand"', ""),
    ('uplink = "wlan0"', ""),
    *((f'"10.0.0.{number}"', f'"192.168.1.{number + 20}"') for number in (1, 11, 12, 13, 14, 15)),
)
"""No gateway: all nodes are on the network of the router at home."""

ETHERNET_UPLINK = changed(PICLUSTER, ('uplink = "wlan0"', 'uplink = "eth1"'))
"""The gateway's uplink is a USB adapter, which gets its address by DHCP. It has Wi-Fi as well."""

_STATIC = 'uplink_address = "192.168.1.50/24"\nuplink_router = "192.168.1.1"'
STATIC_UPLINK = changed(PICLUSTER, ('uplink = "wlan0"', f'uplink = "eth1"\n{_STATIC}'))
"""The uplink is a USB adapter with a static address."""

STATIC_WIFI_UPLINK = f'uplink = "wlan0"\n{_STATIC}'
STATIC_WIFI = changed(PICLUSTER, ('uplink = "wlan0"', STATIC_WIFI_UPLINK))
"""The uplink is Wi-Fi with a static address."""

FALLBACK = changed(
    PICLUSTER,
    (
        'passphrase = { secret = "wifi_psk" }',
        'passphrase = { secret = "wifi_psk" }\n\n[node.wifi.fallback]\nssid = "Phone"\n'
        'passphrase = { secret = "phone_psk" }',
    ),
)
"""The gateway has a second Wi-Fi network."""


def with_wifi(ssid: str, *more: str) -> str:
    """The README's manifest with another network on the master's Wi-Fi; ``more`` are further lines."""
    before = PICLUSTER.index("[node.wifi]")
    after = PICLUSTER.index("[[node]]", before)
    lines = ["[node.wifi]", f'ssid = "{ssid}"', 'country = "GB"', *more, "", ""]
    return PICLUSTER[:before] + "\n".join(lines) + PICLUSTER[after:]


_PASSPHRASE = 'passphrase = { secret = "wifi_psk" }'
SECURITIES = {
    "wpa2": with_wifi("Home", _PASSPHRASE, 'security = "wpa2"'),
    "wpa3": with_wifi("Home", _PASSPHRASE, 'security = "wpa3"'),
    "wpa2/wpa3": with_wifi("Home", _PASSPHRASE, 'security = "wpa2/wpa3"', "hidden = true"),
    "open": with_wifi("Home", 'security = "open"'),
    "owe": with_wifi("Home", 'security = "owe"', "hidden = true"),
}
"""The example cluster, its gateway on a network of each kind."""

BY_DHCP = changed(AT_HOME, ('"192.168.1.32"', '"dhcp"'), ('"192.168.1.33"', '"dhcp"'))
"""No gateway; worker2 and worker3 get their addresses from the router."""

_WORKER4 = 'name = "worker4"\nrole = "worker"\nboard = "pi-3b+"\n'
_BY_WIFI = (
    (_WORKER4, f'{_WORKER4}interface = "wlan0"\n'),
    (
        '[[node]]\nname = "worker5"',
        '[node.wifi]\nssid = "Home"\ncountry = "GB"\npassphrase = { secret = "wifi_psk" }\n\n'
        '[node.wifi.fallback]\nssid = "Home-5G"\npassphrase = { secret = "wifi_psk" }\n\n'
        '[[node]]\nname = "worker5"',
    ),
)
BY_WIFI = changed(AT_HOME, *_BY_WIFI)
"""No gateway; worker4 is on the LAN by Wi-Fi, with a static address, on either of two networks."""

BY_WIFI_BEHIND_A_GATEWAY = changed(PICLUSTER, *_BY_WIFI)
"""worker4 is on the gateway's LAN by Wi-Fi: an access point is on its switch."""

BY_WIFI_AND_DHCP = changed(BY_WIFI, ('"192.168.1.34"', '"dhcp"'))
"""No gateway; worker4 is on the LAN by Wi-Fi, with an address from DHCP."""

_WORKER2 = 'name = "worker2"\nrole = "worker"\nboard = "pi-3b+"\n'
VLAN = changed(PICLUSTER, (_WORKER2, f'{_WORKER2}interface = "eth0.10"\n'))
"""worker2 is on the LAN by VLAN 10 of its port."""

ONE_PORT = changed(PICLUSTER, ('uplink = "wlan0"', 'uplink = "eth0.20"'))
"""The gateway has one port: the LAN without a tag, and the uplink as VLAN 20."""

TWO_VLANS = changed(ONE_PORT, ('uplink = "eth0.20"', 'uplink = "eth0.20"\ninterface = "eth0.10"'))
"""The gateway has one port with two VLANs: the LAN and the uplink."""

_ULA = 'ipv6 = "fd12:3456:789a:1::/64"'
IPV6 = changed(PICLUSTER, ('network = "10.0.0.0/24"', f'network = "10.0.0.0/24"\n{_ULA}'))
"""The nodes have IPv6 addresses of their own (RFC 4193), beside those of IPv4."""

IPV6_AT_HOME = changed(BY_DHCP, ('network = "192.168.1.0/24"', f'network = "192.168.1.0/24"\n{_ULA}'))
"""The same without a gateway; worker2 and worker3 have none, because their addresses are from DHCP."""


def only(text: str, *names: str) -> str:
    """The manifest with these nodes only."""
    head, *nodes = text.split("[[node]]")
    return head + "".join(
        f"[[node]]{node}" for node in nodes if any(f'name = "{name}"' in node for name in names)
    )


BOOTED = only(
    changed(
        STATIC_UPLINK,
        ('name = "worker1"\n', 'name = "worker1"\ninterface = "eth0.10"\n'),
        ('network = "10.0.0.0/24"', f'network = "10.0.0.0/24"\n{_ULA}'),
    ),
    *("master", "worker1"),
)
"""A gateway with a static Ethernet uplink and a worker on VLAN 10, both with IPv6."""

BOOTED_AT_HOME = only(IPV6_AT_HOME, "worker1", "worker2", "worker3")
"""No gateway: a node with a static address and IPv6, and two with addresses from DHCP."""
